"""How fast is it? Against what people use today, in the same run on the same card; aims are those of the project."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dk_detr.benchmark import detector as of_detectors
from dk_detr.benchmark import distillation as of_teachers
from dk_detr.benchmark.attention import STRIDES, encoder_arguments
from dk_detr.benchmark.measure import Measurement, Work, in_turn, kernel_seconds
from dk_detr.benchmark.measure import training_step as step_of
from dk_detr.commands.gpu_check.finding import Finding, Settings, Tell, at_least, at_most, attempt, missing
from dk_detr.language import Clip, clip_from_config
from dk_detr.layers import to_cxcywh
from dk_detr.layers.ops import default_backend, ms_deform_attn
from dk_detr.layers.ops.triton_backend import moved_bytes, moved_bytes_backward
from dk_detr.structures import Regions

OF_COPY = {"forward": 0.6, "backward": 0.4}  # bytes that must move over the time, as a share of the rate of a copy
OF_GRID_SAMPLE = 4.0  # times as fast
OF_HUGGING_FACE = 2.0  # times as fast
OF_CROPS = 10_000  # a second, ViT-B/32; timm publishes 10 000 to 17 000 images a second on recent cards
DECODER_QUERIES = 300
COPIED_BYTES = 2**30
DTYPES = {"float32": None, "float16": torch.float16, "bfloat16": torch.bfloat16}
OURS, THEIRS = of_detectors.OURS, of_detectors.THEIRS
PUBLISHED = {
    "inference": "for scale, published: 15.7 images/s on an A10, 14.5 on a V100",
    "training step": "for scale, published: 4.8 images/s on a V100, 7.2 on an A100",
}
TEACHING = {  # way: how many times the time of a plain step it may take
    of_teachers.FAST: 1.05, of_teachers.EVERY: 1.15, of_teachers.BANK: 1.05, of_teachers.ONLINE: None,
}  # fmt: skip


# ---- deformable attention ----


def attention(settings: Settings, tell: Tell) -> None:
    """Encoder and decoder of one image, forward and backward, against `grid_sample` and against a copy."""
    copy = _copy_rate(settings)
    tell(Finding("copy in the memory of the card", copy / 1e9, "GB/s"))
    tell(missing("Hugging Face's own kernel", "its `kernels` package fetches it from a network"))
    for size in (64,) if settings.dry else (800, 1024):
        for dtype in (torch.float32, torch.bfloat16):
            for part in ("encoder", "decoder"):
                what = f"{part}, {size}×{size}, {str(dtype).removeprefix('torch.')}"
                attempt(tell, what, partial(_attention, what, part, size, dtype, copy, settings, tell))


def attention_compiled(settings: Settings, tell: Tell) -> None:
    """The same against `grid_sample` through torch.compile, in full precision, the encoder at 800×800."""
    shapes, given = _arguments("encoder", 64 if settings.dry else 800, torch.float32, settings.device)
    compiler = "aot_eager" if settings.dry else "inductor"
    compiled = torch.compile(partial(ms_deform_attn, backend="reference"), backend=compiler)
    best = partial(ms_deform_attn, backend=default_backend(settings.device))
    for task, work in _works(compiled, shapes, given).items():
        seconds = kernel_seconds(work, settings.device)
        ours = kernel_seconds(_works(best, shapes, given)[task], settings.device)
        tell(Finding(f"encoder, {task}, against compiled grid_sample", seconds / ours, "times as fast"))


def _attention(
    what: str, part: str, size: int, dtype: torch.dtype, copy: float, settings: Settings, tell: Tell
) -> None:
    shapes, given = _arguments(part, size, dtype, settings.device)
    moved = {"forward": moved_bytes(*given), "backward": moved_bytes_backward(*given)}
    names = {"ours": default_backend(settings.device), "theirs": "reference"}
    works = {key: _works(partial(ms_deform_attn, backend=name), shapes, given) for key, name in names.items()}
    for task, bound in OF_COPY.items():
        ours, theirs = (kernel_seconds(works[key][task], settings.device) for key in names)
        rate = moved[task] / ours
        told = f"{ours * 1e6:.0f} µs; grid_sample {theirs * 1e6:.0f} µs"
        against = f"{what}, {task}, against grid_sample"
        tell(at_least(OF_GRID_SAMPLE, against, theirs / ours, "times as fast", note=told))
        if part == "encoder":  # a decoder reads few of the values
            of_copy = f"{rate / 1e9:.0f} GB/s, each tensor counted once"
            tell(at_least(bound, f"{what}, {task}, of a copy's bandwidth", rate / copy, note=of_copy))


def _arguments(part: str, size: int, dtype: torch.dtype, device: str) -> tuple[Any, tuple[Tensor, Tensor, Tensor]]:
    """Shapes; value, locations and weights of an image: all tokens ask, or a decoder's queries."""
    shapes = tuple((-(-size // stride), -(-size // stride)) for stride in STRIDES)
    value, locations, weights = encoder_arguments(shapes, device, dtype)
    if part == "decoder":
        asking = torch.randperm(locations.shape[1], generator=torch.Generator().manual_seed(0))[:DECODER_QUERIES]
        locations, weights = (each[:, asking.to(device)] for each in (locations, weights))
    return shapes, (value, locations, weights.to(dtype))


def _works(run: Callable[..., Tensor], shapes: Any, given: tuple[Tensor, Tensor, Tensor]) -> dict[str, Work]:
    """Forward, and the backward of one forward that is kept."""
    value, locations, weights = (tensor.detach().requires_grad_() for tensor in given)
    answer = run(value, shapes, locations, weights)
    wanted = torch.ones_like(answer)

    def backward() -> object:
        return torch.autograd.grad(answer, (value, locations, weights), wanted, retain_graph=True)

    return {"forward": torch.no_grad()(lambda: run(value, shapes, locations, weights)), "backward": backward}


def _copy_rate(settings: Settings) -> float:
    """Bytes read and written a second."""
    number = 2**20 if settings.dry else COPIED_BYTES
    source = torch.zeros(number, dtype=torch.uint8, device=settings.device)
    target = torch.empty_like(source)
    return 2 * number / kernel_seconds(lambda: target.copy_(source), settings.device)


# ---- the detector ----


def inference(settings: Settings, tell: Tell) -> None:
    """Two-stage Deformable DETR, R50, 300 queries, against Hugging Face's of the same weights."""
    size = 160 if settings.dry else 800
    with _detectors(settings, tell) as detectors:
        for model in detectors.values():
            model.eval()
        for batch in (1,) if settings.dry else (1, 8):
            for name, half in _dtypes(settings):
                ways = {who: _inference(who, model, batch, size, half) for who, model in detectors.items()}
                what = f"inference, {size}×{size}, batch {batch}, {name}"
                attempt(tell, what, partial(_compare, what, "inference", ways, batch, settings, tell))


def training_step(settings: Settings, tell: Tell) -> None:
    """Losses of all layers, backward and AdamW, two images of 800×800, against Hugging Face's."""
    size, batch = (160 if settings.dry else 800), 2
    with _detectors(settings, tell) as detectors:
        for name, half in _dtypes(settings):
            ways = {who: _training(who, model.train(), batch, size, half) for who, model in detectors.items()}
            what = f"training step, {size}×{size}, batch {batch}, {name}"
            attempt(tell, what, partial(_compare, what, "training step", ways, batch, settings, tell))


def inference_compiled(settings: Settings, tell: Tell) -> None:
    """Ours with encoder and decoder through torch.compile, against ours without."""
    size, name = (160 if settings.dry else 800), of_detectors.CONFIG.stem
    key, parts = "MODEL.DETR.COMPILED", {"eager": "[]", "compiled": "['encoder', 'decoder']"}
    detectors = {way: of_detectors.of_series(name, settings.device, [key, parts[way]]) for way in parts}
    for dtype, half in _dtypes(settings):
        ways = {way: _inference(OURS, model.eval(), 1, size, half) for way, model in detectors.items()}
        found = in_turn(ways, settings.device, 0.1 if settings.dry else 3.0)
        what = f"inference, {size}×{size}, batch 1, {dtype}, compiled"
        ratio = found["eager"].median / found["compiled"].median
        tell(Finding(what, 1 / found["compiled"].median, "images/s", note=f"{ratio:.2f} times as fast as eager"))


def _compare(
    what: str, task: str, ways: Mapping[str, Work], batch: int, settings: Settings, tell: Tell
) -> None:
    found = in_turn(ways, settings.device, 0.1 if settings.dry else 2.5)
    rates = {who: batch / measured.median for who, measured in found.items()}
    tell(Finding(what, rates[OURS], "images/s", note=PUBLISHED[task]))
    if THEIRS in rates:
        told = f"theirs: {rates[THEIRS]:.1f} images/s"
        ratio = rates[OURS] / rates[THEIRS]
        tell(at_least(OF_HUGGING_FACE, f"{what}, against Hugging Face's", ratio, "times as fast", note=told))


@contextmanager
def _detectors(settings: Settings, tell: Tell) -> Iterator[dict[str, Any]]:
    """Ours and theirs; ours alone where `transformers` is not installed."""
    try:
        theirs = of_detectors.hugging_face(settings.device)
    except ImportError as error:
        tell(missing("the comparison with Hugging Face's detector", str(error)))
        yield {OURS: of_detectors.of_series(of_detectors.CONFIG.stem, settings.device)}
        return
    yield {OURS: of_detectors.same_detector(theirs, settings.device), THEIRS: theirs}


def _dtypes(settings: Settings) -> list[tuple[str, torch.dtype | None]]:
    return [each for each in DTYPES.items() if not (settings.dry and each[0] == "float16")]


def _inference(who: str, model: Any, batch: int, size: int, half: torch.dtype | None) -> Work:
    device = next(model.parameters()).device
    ours = [of_detectors.input_of(size)] * batch
    pixels = of_detectors.pixels_of(size)[None].expand(batch, -1, -1, -1).to(device)

    @torch.inference_mode()
    def run() -> object:
        with torch.autocast(device.type, half, enabled=half is not None):
            return model(ours if who == OURS else pixels)

    return run


def _training(who: str, model: Any, batch: int, size: int, half: torch.dtype | None) -> Work:
    device, given = next(model.parameters()).device, of_detectors.input_of(size)
    boxes = to_cxcywh(given["instances"].gt_boxes.tensor / size).to(device)
    labels = [{"class_labels": given["instances"].gt_classes.to(device), "boxes": boxes}] * batch
    pixels = of_detectors.pixels_of(size)[None].expand(batch, -1, -1, -1).to(device)

    def loss() -> Any:
        with torch.autocast(device.type, half, enabled=half is not None):
            return sum(model([given] * batch).values()) if who == OURS else model(pixels, labels=labels).loss

    return step_of(model, loss)


# ---- the teacher ----


def distillation(settings: Settings, tell: Tell) -> None:
    """A training step of DK-DETR, R50, 1024×1024, taught by a random CLIP ViT-B/32, against one that is not."""
    path, batch = str(of_teachers.CONFIGS[settings.device]), 2
    dense = {name: 1.05 for name in of_teachers.WAYS if "dense" in name}
    with tempfile.TemporaryDirectory(prefix="dk_detr-") as folder:
        of_teachers.shared_settings(path, settings.device, folder)
        autocast = torch.autocast(settings.device, torch.bfloat16, enabled=False)
        ways: dict[str, Work] = {}
        of_all = (path, settings.device, folder, batch)
        for name in (of_teachers.PLAIN, *TEACHING, *dense):
            make = partial(of_teachers.step_of_way, name, *of_all, lambda: autocast)
            attempt(tell, name, partial(_add, ways, name, make))
        for precision, half in (("float32", False), ("bfloat16", True)):
            autocast = torch.autocast(settings.device, torch.bfloat16, enabled=half)
            found = in_turn(ways, settings.device, 0.1 if settings.dry else 12.0)
            for name, bound in {**TEACHING, **dense}.items():
                if name in found:
                    tell(_cost(f"{name}, {precision}", found[name], found[of_teachers.PLAIN], bound))
    if not dense:
        tell(missing("dense teacher", "this version has none"))


def _add(ways: dict[str, Work], name: str, make: Callable[[], Work]) -> None:
    ways[name] = make()


def _cost(what: str, taught: Measurement, plain: Measurement, bound: float | None) -> Finding:
    told = f"{taught.median:.3f} s, plain {plain.median:.3f} s"
    ratio = taught.median / plain.median
    if bound is None:
        return Finding(what, ratio, "times a plain step", note=told)
    return at_most(bound, what, ratio, "times a plain step", note=told)


def clip(settings: Settings, tell: Tell) -> None:
    """Crops a second of the teacher: its encoder alone, and with cropping."""
    path, number = str(of_teachers.CONFIGS[settings.device]), (4 if settings.dry else 1024)
    with tempfile.TemporaryDirectory(prefix="dk_detr-") as folder:
        cfg = of_teachers.shared_settings(path, settings.device, folder)
        name = Path(cfg.MODEL.CLIP.ARCHITECTURE).stem
        encoder = clip_from_config(cfg).to(settings.device)
        crops = torch.rand(number, 3, encoder.image_size, encoder.image_size, device=settings.device)
        crops = crops.contiguous(memory_format=torch.channels_last)
        encoder.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for precision, half in _dtypes(settings):
            work = partial(_encode, encoder, crops, half)
            rate = number / in_turn({name: work}, settings.device, 0.1 if settings.dry else 2.0)[name].median
            what = f"{name}, encoder alone, {precision}"
            aimed = partial(at_least, OF_CROPS) if half else Finding
            tell(aimed(what, rate, "crops/s", note="timm publishes 10 000 to 17 000 for ViT-B/32"))
        _, model = of_teachers.built(of_teachers.WAYS[of_teachers.ONLINE], path, settings.device, folder)
    teacher, side = model.extensions["Distillation"].queries.teacher, (96 if settings.dry else 1024)
    pixels, image = torch.rand(4, 3, side, side, device=settings.device), torch.arange(number, device=settings.device)
    image = image * 4 // number
    boxes = torch.tensor([0.5, 0.5, 0.2, 0.2], device=settings.device).expand(number, 4)
    asked = partial(teacher, pixels, [(side, side)] * 4, Regions(image, image, boxes))
    rate = number / in_turn({"teacher": asked}, settings.device, 0.1 if settings.dry else 2.0)["teacher"].median
    tell(Finding(f"{name}, with cropping, as a teacher", rate, "regions/s", note=f"at scales {teacher.crop_scales}"))


@torch.inference_mode()
def _encode(encoder: Clip, crops: Tensor, half: torch.dtype | None) -> Tensor:
    with torch.autocast(crops.device.type, half, enabled=half is not None):
        return encoder.encode_image(crops)
