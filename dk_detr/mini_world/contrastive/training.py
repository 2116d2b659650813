"""Pretrain a small CLIP: open_clip's model and loss, and a recipe for a few thousand crops.

*The cone.* Embeddings of real CLIPs share a strong common direction. Those of a small one would be centred, and then no
vector is far from all texts at once, as a detector's "nothing here" has to be. So the biases of both output projections
are set to one common vector and kept there, while the weights learn the rest.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from dk_detr.language.clip import Clip, load_clip
from dk_detr.mini_world.contrastive.pairs import Pairs
from dk_detr.mini_world.contrastive.zero_shot import measure
from dk_detr.utils import atomic_file, atomic_write

WEIGHTS_FILE, STATE_FILE, METRICS_FILE = "mini_clip.pt", "training.pt", "metrics.json"
MAX_LOGIT_SCALE = 100.0


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        warm_up: share of the iterations in which the learning rate rises; it then falls as a cosine.
        cone: length of the common vector that both output biases are. What the weights add comes to about the same
            length, which makes the cosine of unrelated embeddings about one half.
        checkpoint_period: iterations between two saved states.
    """

    iterations: int = 1000
    learning_rate: float = 4e-3
    warm_up: float = 0.2
    weight_decay: float = 0.05
    cone: float = 20.0
    seed: int = 0
    checkpoint_period: int = 100


def pretrain(data: str | Path, config: str, output: str | Path, recipe: Recipe) -> dict[str, Any]:
    """Pretrain on the captions of a mini world and measure on its val split.

    An interrupted run goes on where it stopped; of a finished one, only the metrics are read.

    Args:
        data: folder of a mini world.
        config: an open_clip model config (.json) whose towers end in linear layers with a bias.
        output: folder for mini_clip.pt (a state dict as open_clip loads it) and metrics.json.

    Returns:
        the metrics (see `measure`).

    Raises:
        ValueError: `output` holds a run with other settings. FileNotFoundError: no complete mini world, no config.
    """
    root, folder = Path(data), Path(output)
    run = {"recipe": asdict(recipe), "config": _read_config(config), "data": _read_manifest(root)}
    if (folder / METRICS_FILE).is_file() and (folder / WEIGHTS_FILE).is_file():
        metrics: dict[str, Any] = json.loads((folder / METRICS_FILE).read_text())
        _check_same_run(metrics["run"], run, folder)
        return metrics
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    clip = load_clip("open_clip", config, weights="")
    _train(clip, Pairs(root / "captions"), recipe, folder, run)
    with atomic_file(folder / WEIGHTS_FILE) as part:
        torch.save(clip.model.state_dict(), part)
    metrics = {"run": run, **measure(load_clip("open_clip", config, str(folder / WEIGHTS_FILE)), root)}
    atomic_write(folder / METRICS_FILE, json.dumps(metrics, indent=2) + "\n")
    (folder / STATE_FILE).unlink()
    return metrics


def _read_config(config: str) -> dict[str, Any]:
    if not Path(config).is_file():
        raise FileNotFoundError(f"There is no open_clip model config {config}.")
    contents: dict[str, Any] = json.loads(Path(config).read_text())
    return contents


def _read_manifest(root: Path) -> dict[str, Any]:
    """What tells one mini world from another."""
    path = root / "manifest.json"
    manifest: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    if not manifest.get("fingerprint"):
        raise FileNotFoundError(f"{root} holds no complete mini world: tools/make_mini_lvis.py --output {root}")
    return manifest


def _check_same_run(found: dict[str, Any], wanted: dict[str, Any], folder: Path) -> None:
    different = [key for key in wanted if found[key] != wanted[key]]
    if different:
        raise ValueError(
            f"{folder} holds a mini CLIP with another {' and another '.join(different)}. "
            "Choose another --output, or delete the folder to train again."
        )


def _train(clip: Clip, pairs: Pairs, recipe: Recipe, folder: Path, run: dict[str, Any]) -> None:
    """Train in place, from the saved state if there is one; the model is frozen again at the end."""
    from open_clip import ClipLoss

    model = clip.model.train().requires_grad_(True)
    set_cone(model, recipe.cone)
    optimizer = _build_optimizer(model, recipe)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.iterations, pct_start=recipe.warm_up
    )
    state = {"model": model, "optimizer": optimizer, "schedule": schedule}
    start, loss_function = _resume(state, folder, run), ClipLoss()
    progress = tqdm(range(start, recipe.iterations), "mini CLIP", recipe.iterations, initial=start, unit="batch")
    for iteration in progress:
        loss = _loss(clip, *pairs.draw(recipe.seed, iteration, clip.image_size), loss_function)
        if not math.isfinite(loss.item()):
            raise FloatingPointError(f"The loss of the mini CLIP is {loss.item()} in iteration {iteration}.")
        _step(model, optimizer, loss)
        schedule.step()
        progress.set_postfix(loss=f"{loss.item():.2f}", refresh=False)
        done = iteration + 1
        if done % recipe.checkpoint_period == 0 or done == recipe.iterations:
            with atomic_file(folder / STATE_FILE) as part:
                torch.save(_snapshot(state, done, run), part)
    model.eval().requires_grad_(False)


def _loss(clip: Clip, pixels: Tensor, sentences: list[str], loss_function: nn.Module) -> Tensor:
    mean, std = (pixels.new_tensor(value).view(3, 1, 1) for value in (clip.mean, clip.std))
    image, text, scale = clip.model((pixels - mean) / std, clip.tokenize(sentences))
    loss: Tensor = loss_function(image, text, scale)
    return loss


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    with torch.no_grad():
        model.logit_scale.clamp_(0, math.log(MAX_LOGIT_SCALE))  # type: ignore[union-attr, operator]


def _build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW that spares biases, norms and the logit scale the weight decay, as CLIP does."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), fused=True)


def set_cone(model: nn.Module, length: float) -> None:
    """Make the biases of both output projections one constant vector of that length, and keep them from training.

    Raises:
        ValueError: a tower does not end in a linear layer with a bias ("proj_bias" and "timm_proj_bias" in the config).
    """
    linear = [module for module in model.visual.modules() if isinstance(module, nn.Linear)]  # type: ignore[union-attr]
    for tower, projection in (("vision_cfg", linear[-1] if linear else None), ("text_cfg", model.text_projection)):
        if not isinstance(projection, nn.Linear) or projection.bias is None:
            raise ValueError(f"The tower of {tower} must end in a linear projection with a bias, to hold the cone.")
        nn.init.constant_(projection.bias, length / projection.out_features**0.5)
        projection.bias.requires_grad_(False)


def _snapshot(state: dict[str, Any], iterations_done: int, run: dict[str, Any]) -> dict[str, Any]:
    return {"iterations_done": iterations_done, "run": run, **{name: part.state_dict() for name, part in state.items()}}


def _resume(state: dict[str, Any], folder: Path, run: dict[str, Any]) -> int:
    """Load the saved state, if there is one; returns the number of iterations done."""
    if not (folder / STATE_FILE).is_file():
        return 0
    saved = torch.load(folder / STATE_FILE, weights_only=True)
    _check_same_run(saved["run"], run, folder)
    for name, part in state.items():
        part.load_state_dict(saved[name])
    return int(saved["iterations_done"])
