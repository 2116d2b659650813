"""CLIP: one door to the image and text encoders of open_clip and of OpenAI's `clip` package."""

import importlib.util
import json
import pickle
import warnings
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dk_detr.language.download import require_server, source_at, with_weights_of_tag

PROBE_TEXT = "a photo of a cat."
LIBRARIES = ("open_clip", "clip")
RANDOM = "random"
AVERAGE = "moving_average"  # of weights, in checkpoints that have one; it is what detectors load, too
TOWER = "recognizer.visual."  # how names of an image tower begin in a checkpoint of RegionCLIP


class Clip:
    """A frozen pair of encoders into one space.

    Args:
        model: has `encode_image(pixels)` and `encode_text(tokens)`.
        tokenize: list of texts -> (N, T) token ids.
        image_size: side S of the square input in pixels.
        mean, std: of the input pixels in [0, 1], RGB.
        provenance: library, architecture and weights, for vocabularies and caches.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenize: Callable[[list[str]], Tensor],
        image_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        provenance: dict[str, str],
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenize = tokenize
        self.image_size = image_size
        self.mean, self.std = tuple(mean), tuple(std)
        self.provenance = provenance

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def width(self) -> int:
        """E, the width of the shared space."""
        return self.encode_text(["a"]).shape[1]

    @cached_property
    def probe(self) -> str:
        """What tells this CLIP from others, wherever its weights lie and whatever they are called: the embedding of one
        sentence as a JSON list; "" for random weights, which nobody has again."""
        if self.provenance.get("weights") == RANDOM:
            return ""
        return json.dumps([round(x, 5) for x in self.encode_text([PROBE_TEXT])[0].tolist()])

    @cached_property
    def regions(self) -> Any:
        """What looks at regions of one map, a `RegionTower`. Raises ValueError for an image tower that cannot."""
        from dk_detr.language.region_tower import region_tower

        return region_tower(self)

    def to(self, device: torch.device | str) -> "Clip":
        """Move the encoders; returns itself."""
        self.model.to(device)
        return self

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str], batch_size: int = 512) -> Tensor:
        """N texts -> (N, E) float32 unit rows."""
        chunks = [list(texts[i : i + batch_size]) for i in range(0, len(texts), batch_size)]
        rows = [self.model.encode_text(self.tokenize(chunk).to(self.device)) for chunk in chunks]  # type: ignore[operator]
        return F.normalize(torch.cat(rows).float(), dim=-1)

    @torch.no_grad()
    def encode_image(self, pixels: Tensor) -> Tensor:
        """(N, 3, S, S) RGB in [0, 1] -> (N, E) float32 unit rows."""
        mean, std = (pixels.new_tensor(value).view(3, 1, 1) for value in (self.mean, self.std))
        dtype = next(self.model.parameters()).dtype
        return F.normalize(self.model.encode_image(((pixels - mean) / std).to(dtype)).float(), dim=-1)  # type: ignore[operator]


def load_clip(
    library: str = "open_clip",
    architecture: str = "ViT-B-32-quickgelu",
    weights: str = "openai",
    device: torch.device | str = "cpu",
) -> Clip:
    """Load a CLIP.

    Args:
        library: "open_clip", or "clip" for OpenAI's own package.
        architecture: a model name of the library ("ViT-B-32-quickgelu"; "ViT-B/32" for `clip`), or the path of an
            open_clip model config (.json).
        weights: a tag that the library downloads ("openai", "laion2b_s34b_b79k"), a checkpoint file, or "" for
            random weights (tests).

    Raises:
        ValueError: unknown library, architecture or tag. FileNotFoundError: the config or checkpoint is not there.
        OSError: the weights of a tag are not on this machine and cannot be downloaded.
    """
    if library == "open_clip":
        return _load_open_clip(architecture, weights, device)
    if library == "clip":
        return _load_openai_clip(architecture, weights, device)
    raise ValueError(f'MODEL.CLIP.LIBRARY "{library}" is unknown; choose one of {", ".join(LIBRARIES)}.')


def load_image_tower(clip: Clip, path: str) -> None:
    """Put an image tower into a CLIP: that of a checkpoint of RegionCLIP, "recognizer.visual.…".

    Raises: FileNotFoundError; ValueError for a file without one, or with one of another shape.
    """
    key = "MODEL.CLIP.IMAGE_WEIGHTS"
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file {path} ({key}).")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} ({key}) is no checkpoint: {' '.join(str(error).split())[:200]}") from error
    content = content if isinstance(content, dict) else {}
    weights = {**content.get("model", {}), **content.get(AVERAGE, {}).get("weights", {})}
    tower = {name.removeprefix(TOWER): w for name, w in weights.items() if name.startswith(TOWER)}
    if not tower:
        raise ValueError(f"{path} ({key}) holds no image tower ({TOWER}…): name a checkpoint of RegionCLIP.")
    try:
        clip.model.visual.load_state_dict(tower)  # type: ignore[union-attr]
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        name = clip.provenance.get("architecture")
        raise ValueError(f"{path} ({key}) is no image tower of {name}: {reason}") from error
    clip.provenance["image_weights"] = path


def _load_open_clip(architecture: str, weights: str, device: torch.device | str) -> Clip:
    import open_clip

    name = _register_architecture(architecture)
    if name not in open_clip.list_models():
        raise ValueError(
            f'open_clip knows no model "{architecture}" (MODEL.CLIP.ARCHITECTURE). '
            "List them with `python -c 'import open_clip; print(open_clip.list_models())'`, or give a .json config."
        )
    tags = [tag for model, tag in open_clip.list_pretrained() if model == name]
    _check_weights(name, weights, tags)
    create = partial(open_clip.create_model, name, pretrained=weights or None, device=device, weights_only=True)
    if weights in tags:
        model = with_weights_of_tag(create, name, weights)
    else:
        model = _from_file(create, weights, architecture)
    config: dict[str, Any] = open_clip.get_model_preprocess_cfg(model)
    side = config["size"] if isinstance(config["size"], int) else config["size"][0]
    provenance = {"library": "open_clip", "architecture": architecture, "weights": weights or RANDOM}
    return Clip(model, open_clip.get_tokenizer(name), side, config["mean"], config["std"], provenance)


def _from_file(create: Callable[[], Any], weights: str, architecture: str) -> Any:
    """What `create` gives. Raises ValueError naming the file that it could not read."""
    try:
        return create()
    except (RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{weights} (MODEL.CLIP.WEIGHTS) holds no weights of {architecture}: {reason}") from error


def _register_architecture(architecture: str) -> str:
    """Make a .json model config known to open_clip under its file name; other names pass through."""
    if not architecture.endswith(".json"):
        return architecture
    import open_clip

    if not Path(architecture).is_file():
        raise FileNotFoundError(f"There is no open_clip model config {architecture} (MODEL.CLIP.ARCHITECTURE).")
    open_clip.add_model_config(architecture)
    return Path(architecture).stem


def _check_weights(name: str, weights: str, tags: list[str]) -> None:
    """Raises FileNotFoundError, ValueError for what is neither a tag of the model nor a file."""
    if not weights or weights in tags or Path(weights).is_file():
        return
    if weights.endswith((".pt", ".pth", ".bin", ".safetensors")) or "/" in weights:
        raise FileNotFoundError(f"There is no CLIP checkpoint {weights} (MODEL.CLIP.WEIGHTS).")
    known = ", ".join(tags) or "none"
    raise ValueError(f'MODEL.CLIP.WEIGHTS "{weights}" is no tag of {name}; known: {known}. A file path works too.')


def _load_openai_clip(architecture: str, weights: str, device: torch.device | str) -> Clip:
    clip = _openai_package()
    if Path(weights).is_file():
        model = _from_file(lambda: clip.load(weights, device=device, jit=False)[0], weights, architecture)
    else:
        model = _openai_release(clip, architecture, weights, device)
    provenance = {"library": "clip", "architecture": architecture, "weights": weights or "openai"}
    tokenize = partial(clip.tokenize, context_length=model.context_length, truncate=True)
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    return Clip(model.float(), tokenize, model.visual.input_resolution, mean, std, provenance)


def _openai_package() -> Any:
    if importlib.util.find_spec("clip") is None:
        raise ImportError(
            'MODEL.CLIP.LIBRARY "clip" needs OpenAI\'s package: pip install clip-anytorch (the package index has it by '
            "this name) or pip install git+https://github.com/openai/CLIP.git, or use \"open_clip\" with "
            'MODEL.CLIP.WEIGHTS "openai": the same weights.'
        )
    with warnings.catch_warnings():  # it asks setuptools for what setuptools would rather not give any more
        warnings.simplefilter("ignore")
        import clip
    return clip


def _openai_release(clip: Any, architecture: str, weights: str, device: torch.device | str) -> Any:
    """One of the models that OpenAI released, from its cache or the network."""
    _check_weights(architecture, weights, ["openai"])
    if architecture not in clip.available_models():
        known = ", ".join(clip.available_models())
        raise ValueError(f'clip knows no model "{architecture}" (MODEL.CLIP.ARCHITECTURE); there are: {known}.')
    source = source_at(clip.clip._MODELS[architecture])
    if not source.cached:
        require_server(source, weights or "openai")
    try:
        return clip.load(architecture, device=device, jit=False)[0]
    except (OSError, RuntimeError) as error:
        raise source.missed(weights or "openai", error) from error
