"""Does everything work? What the card computes, against the CPU; half precision, the teacher on a stream of its own and
torch.compile, which only a card does; and a run that changes from one to the other."""

import importlib.util
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from dk_detr.commands.gpu_check.attention import check_backend
from dk_detr.commands.gpu_check.finding import Finding, Settings, Tell, at_most, attempt, failed, missing
from dk_detr.commands.gpu_check.same_dice import SameDice
from dk_detr.commands.gpu_check.shrunk import CONFIGS, FOLDER, TWO_STEPS, options_of, two_steps
from dk_detr.commands.gpu_check.tiny_world import MINI, ROOT, SIDE, World, world_with_masks
from dk_detr.distillation import CLIPCrops
from dk_detr.engine.launch import launch
from dk_detr.engine.precision import DTYPES
from dk_detr.engine.run_folder import read_results
from dk_detr.engine.setup import setup_cfg
from dk_detr.engine.trainer import Trainer
from dk_detr.layers.ops import available_backends, default_backend
from dk_detr.modeling.acceleration import Compiled
from dk_detr.structures import Regions, TeacherInput

TOLERANCE = 1e-3  # of losses, and of boxes as shares of the image
OF_GRADIENTS = 1e-2
OF_HALVES = 0.25  # of losses: what is chosen, matched and sampled changes with the last bits
STIRRED = 0.02  # standard deviation of what is added to all parameters: boxes and offsets that start at zero hide much
DRY_CONFIGS = ("dk_detr_R50.yaml", "mini/dino.yaml")
TRAINED = ("mini/dk_detr.yaml", "mini/dk_detr_plus.yaml", "mini/dk_detr_mask.yaml", "mini/adamixer.yaml")
TESTS = ROOT / "tests" / "layers" / "test_triton_backend.py"


@contextmanager
def _world() -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="dk_detr-") as folder, world_with_masks(Path(folder)).in_use() as world:
        yield world


def attention(settings: Settings, tell: Tell) -> None:
    """The fastest backend against the reference in float64, forward and backward, in its deterministic mode, too."""
    name = default_backend(settings.device)
    what, known = f"backend of deformable attention: {name}", f"of {', '.join(available_backends(settings.device))}"
    tell(Finding(what, aim="not the fallback", met=name != "reference", note=known))
    check_backend(name, settings.device, tell)


def tests(settings: Settings, tell: Tell) -> None:
    """The tests of the Triton backend, where pytest is installed. Without what compiles for other cards."""
    if settings.dry or not importlib.util.find_spec("pytest") or not TESTS.is_file():
        tell(missing("tests of the Triton backend", "they need a card, pytest and the folder tests"))
        return
    command = [sys.executable, "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider", str(TESTS)]
    done = subprocess.run(
        [*command, "-k", "not compile and not hopper"], check=False, cwd=ROOT, capture_output=True, text=True
    )
    print(done.stdout, done.stderr)
    said = done.stdout.strip().splitlines()[-1:] or ["no answer"]
    tell(Finding("tests of the Triton backend", aim="all pass", met=done.returncode == 0, note=said[0]))


# ---- every config ----


def configs(settings: Settings, tell: Tell) -> None:
    """A training step and detections of each config, shrunk, against the CPU; then the step in half precision."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    with _world() as world:
        for path in CONFIGS:
            name = str(path.relative_to(FOLDER))
            if settings.dry and name not in DRY_CONFIGS:
                continue
            attempt(tell, name, partial(_config, path, name, world, settings, tell), series="configs")


def _config(path: Path, name: str, world: World, settings: Settings, tell: Tell) -> None:
    ours, theirs = (_built(path, world, device) for device in ("cpu", settings.device))
    theirs[0].load_state_dict(ours[0].state_dict())
    batch = next(iter(Trainer.build_train_stream(ours[1], ours[0], seed=0)))
    (wanted, of_cpu), (losses, of_card) = (_step(model, batch) for model, _ in (ours, theirs))
    worst = max(_relative(losses[key], wanted[key]) for key in wanted)
    tell(at_most(TOLERANCE, f"{name}, losses", worst, series="losses of all configs"))
    apart = float((of_card - of_cpu).norm() / of_cpu.norm())
    tell(at_most(OF_GRADIENTS, f"{name}, gradients", apart, series="gradients of all configs"))
    seen = [_detections(model, batch) for model, _ in (ours, theirs)]
    tell(at_most(TOLERANCE, f"{name}, detections", _far_apart(*seen), series="detections of all configs"))
    for half in [each for each in DTYPES if not settings.dry or each == "bfloat16"]:
        losses, gradient = _step(theirs[0], batch, DTYPES[half])
        share = _relative(sum(losses.values()), sum(wanted.values())) if gradient.isfinite().all() else math.nan
        tell(at_most(OF_HALVES, f"{name}, {half}", share, series=f"losses of all configs in {half}"))


def _built(path: Path, world: World, device: str) -> tuple[Any, Any]:
    """A detector with weights that are the same on every call, and its config."""
    options = {**two_steps(path), **options_of(path, world), "MODEL__DETR__DROPOUT": 0.0, "MODEL__DEVICE": device}
    cfg = setup_cfg(str(path), world.options(**options))
    torch.manual_seed(0)
    model = Trainer.build_model(cfg).train()
    with torch.no_grad(), SameDice():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=STIRRED)
    return model, cfg


def _step(model: nn.Module, batch: Any, half: torch.dtype | None = None) -> tuple[dict[str, float], Tensor]:
    """Losses by name, and the gradient of their sum, on the CPU. Statistics of BatchNorm stay as they were."""
    state = {name: buffer.clone() for name, buffer in model.named_buffers()}
    device = next(model.parameters()).device.type
    torch.manual_seed(0)
    with SameDice(), EventStorage(0), torch.autocast(device, half, enabled=half is not None):
        losses: dict[str, Tensor] = model.train()(batch)
    total: Any = sum(losses.values())
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(total, trained, allow_unused=True)
    for name, buffer in model.named_buffers():
        buffer.copy_(state[name])
    flat = torch.cat([gradient.float().flatten().cpu() for gradient in gradients if gradient is not None])
    return {name: loss.item() for name, loss in losses.items()}, flat


@torch.no_grad()
def _detections(model: nn.Module, batch: Any) -> list[Tensor]:
    """Of each image rows of class, score and box, as a share of the image."""
    given = [{"image": sample["image"], "height": SIDE, "width": SIDE} for sample in batch]
    rows = []
    for answer in model.eval()(given):
        found = answer["instances"]
        boxes = found.pred_boxes.tensor / SIDE
        rows.append(torch.cat([found.pred_classes[:, None], found.scores[:, None], boxes], dim=1).cpu())
    return rows


def _far_apart(ones: list[Tensor], others: list[Tensor]) -> float:
    """The largest difference of a detection from the nearest of the other detector: its class is 1 away."""
    return max(float(torch.cdist(one, other, p=math.inf).amin(1).amax()) for one, other in zip(ones, others))


def _relative(figure: float, wanted: float) -> float:
    return abs(figure - wanted) / max(abs(wanted), 1e-3)


# ---- runs ----


def training(settings: Settings, tell: Tell) -> None:
    """Whole runs: train, save, evaluate; in half precision; and one that the CPU began."""
    with _world() as world:
        for name in TRAINED[:1] if settings.dry else TRAINED:
            path = FOLDER / name
            options = {**two_steps(path), **options_of(path, world)}
            for half in ["float32", *DTYPES]:
                if settings.dry and half == "float16":
                    tell(missing(f"{name}, {half}", "it needs a card"))
                    continue
                amp = {} if half == "float32" else {"SOLVER__AMP__ENABLED": True, "SOLVER__AMP__DTYPE": half}
                what, folder = f"{name}, a run in {half}", world.root / f"{Path(name).stem}_{half}"
                _run(tell, what, world, folder, str(path), 2, MODEL__DEVICE=settings.device, **options, **amp)
        first = {**two_steps(Path(MINI)), "DATASETS__TEST": ()}
        folder = world.root / "resumed"
        _run(tell, "a run on the CPU", world, folder, MINI, 2, MODEL__DEVICE="cpu", **first)
        more = {**first, "SOLVER__MAX_ITER": 4, "DATASETS__TEST": OF_MINI, "MODEL__DEVICE": settings.device}
        _run(tell, "the same run, resumed on the card", world, folder, MINI, 4, resume=True, **more)


OF_MINI = ("mini_lvis_test",)


def _run(tell: Tell, what: str, world: World, folder: Path, config: str, iterations: int, **options: Any) -> None:
    """Tell whether a run comes to its end, and its results name so many iterations."""

    def run() -> None:
        world.train(folder, config=config, **options)
        results = read_results(str(folder)) or {"iteration": 0}
        met = (folder / "model_final.pth").is_file() and results["iteration"] == iterations
        tell(Finding(what, met=met, aim="runs", series="runs"))

    attempt(tell, what, run, series="runs")


def workers(settings: Settings, tell: Tell) -> None:
    """Two processes: NCCL where there are two cards, else gloo, both on the one."""
    cards = torch.cuda.device_count() if not settings.dry else 0
    what = "two processes, " + ("NCCL on two cards" if cards > 1 else f"gloo on one {settings.device}")
    with tempfile.TemporaryDirectory(prefix="dk_detr-") as root:
        world_with_masks(Path(root))

        def run() -> None:
            arguments = (root, settings.device)
            launch(_train_in_a_worker, 2, arguments, "cuda" if cards > 1 else "cpu")
            met = (Path(root) / "run" / "model_final.pth").is_file()
            tell(Finding(what, aim="trains", met=met))

        attempt(tell, what, run)


def _train_in_a_worker(root: str, device: str) -> None:
    options = {**TWO_STEPS, "DATASETS__TEST": (), "MODEL__DEVICE": device}
    World(Path(root)).train(Path(root) / "run", config=MINI, **options)
    print(f"worker {dist.get_rank()} of {dist.get_world_size()} ({dist.get_backend()}) is done")


# ---- what only a card does ----


def compiled(settings: Settings, tell: Tell) -> None:
    """Encoder, decoder and teacher through torch.compile say what they say without."""
    path = Path(MINI)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    with _world() as world:
        losses = []
        for parts in ([], ["encoder", "decoder"]):
            options = {**two_steps(path), "MODEL__DEVICE": settings.device, "MODEL__DETR__COMPILED": parts}
            cfg = setup_cfg(MINI, world.options(**options))
            torch.manual_seed(0)
            model = Trainer.build_model(cfg).train()
            batch = next(iter(Trainer.build_train_stream(cfg, model, seed=0)))
            torch.manual_seed(0)
            with EventStorage(0):
                given = model(batch)
            sum(given.values()).backward()
            losses.append({name: loss.item() for name, loss in given.items()})
        forwards = [vars(module).get("forward") for module in model.modules()]
        layers = [forward for forward in forwards if isinstance(forward, Compiled)]
        works = bool(layers) and all(forward.compiler.works for forward in layers)
        tell(Finding("torch.compile of encoder and decoder", aim="no fallback", met=works))
        worst = max(_relative(losses[1][name], losses[0][name]) for name in losses[0])
        tell(at_most(TOLERANCE, "losses with torch.compile, against without", worst))


def teacher(settings: Settings, tell: Tell) -> None:
    """CLIP on its own stream says what it says on the student's, though pixels come late and their memory is used again
    at once."""
    side, device = (64 if settings.dry else 1024), settings.device
    with _world() as world:
        options = {**two_steps(Path(MINI)), "MODEL__DEVICE": device}
        cfg = setup_cfg(MINI, world.options(**options))
        model: Any = Trainer.build_model(cfg)
        crops: CLIPCrops = model.extensions["Distillation"].queries.teacher
        worst = max(_teacher_apart(crops, side, device, number) for number in range(10))
    if math.isnan(worst):
        tell(failed("the teacher on a stream of its own", "it reads memory that is not its own any more"))
        return
    tell(at_most(1e-3, "the teacher on a stream of its own, against on the student's", worst))


def _teacher_apart(crops: CLIPCrops, side: int, device: str, seed: int) -> float:
    dice = torch.Generator().manual_seed(seed)
    pixels = torch.randn(2, 3, side, side, generator=dice).to(device)
    boxes = torch.rand(40, 4, generator=dice).to(device) * 0.3 + 0.3
    image = torch.arange(40, device=device) // 20
    regions, sizes = Regions(image, image, boxes), [(side, side)] * 2
    wanted = crops(pixels, sizes, regions)
    busy = torch.randn(2 * side, 2 * side, device=device)
    for _ in range(20):
        busy = busy @ busy * 1e-3  # the student is not done when the teacher is asked
    late = torch.full_like(pixels, math.nan).copy_(pixels + busy[0, 0] * 0)
    answer = crops.ask(TeacherInput(late, sizes), regions)
    del late
    used_again = [torch.full_like(pixels, math.nan) for _ in range(4)]
    found = answer()
    del used_again
    return float((found - wanted).abs().max())
