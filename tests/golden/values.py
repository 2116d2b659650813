"""What every config computes, shrunk: the losses of five training steps, and the detections after them.

    python -m tests.golden.values --write      before a change that must not show
    python -m tests.golden.values --compare    after it: says which configs are no longer equal, bit for bit

Bits depend on processor and PyTorch, so that both must run on one machine, and with one thread (OMP_NUM_THREADS=1).
tests/golden/test_golden.py compares the file that is checked in on any machine, loosely.
"""

import argparse
import json
import logging
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage

from dk_detr.commands.gpu_check.shrunk import CONFIGS, OF_THE_WORLD, options_of, two_steps
from dk_detr.engine import Trainer, setup_cfg
from dk_detr.engine.optimizer import build_optimizer
from tests.run_fixtures import REPOSITORY, SIDE, World, world_with_masks

FILE = Path(__file__).with_name("values.json")
STEPS = 5
VILD = sorted((REPOSITORY / "projects" / "ViLD" / "configs").rglob("ViLD*.yaml"))
ALL = {str(path.relative_to(REPOSITORY)): path for path in [*CONFIGS, *VILD]}

Values = dict[str, Any]


def config_of(name: str, world: World) -> CfgNode:
    """The config, shrunk as the journeys shrink it."""
    path = ALL[name]
    if path in VILD:
        small = {
            "MODEL__ROI_BOX_HEAD__FC_DIM": 32, "MODEL__ROI_BOX_HEAD__CONV_DIM": 32, "MODEL__FPN__OUT_CHANNELS": 32,
            "MODEL__ROI_MASK_HEAD__CONV_DIM": 16, "MODEL__MASK_ON": False, "MODEL__KD__MIN_SIDE": 0.0,
        }  # fmt: skip
        return setup_cfg(str(path), world.options(**small, **OF_THE_WORLD, **options_of(path, world)))
    return setup_cfg(str(path), world.options(**{**two_steps(path), **options_of(path, world)}))


def train(cfg: CfgNode, steps: int) -> tuple[Any, list[dict[str, float]]]:
    """The trained detector, and its losses by step and name."""
    torch.manual_seed(0)
    model = Trainer.build_model(cfg).train()
    batches = iter(Trainer.build_train_stream(cfg, model, seed=0))
    optimizer = build_optimizer(cfg, model)
    seen = []
    for step in range(steps):
        batch = next(batches)
        torch.manual_seed(step)
        with EventStorage(step):
            losses = model(batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        seen.append({name: loss.item() for name, loss in losses.items()})
    return model, seen


def values_of(cfg: CfgNode) -> Values:
    """Losses by step and name, and the last detections, best first, of a picture without objects."""
    model, losses = train(cfg, STEPS)
    picture = torch.arange(3 * SIDE * SIDE).view(3, SIDE, SIDE).remainder(251).float()
    with torch.no_grad():
        (answer,) = model.eval()([{"image": picture, "height": SIDE, "width": SIDE}])
    found = answer["instances"]
    rows = zip(found.pred_classes.tolist(), found.scores.tolist(), found.pred_boxes.tensor.tolist())
    return {"losses": losses, "detections": [[label, score, *box] for label, score, box in rows][:10]}


def all_values(world: World) -> Iterator[tuple[str, Values]]:
    """Of every config, by its path."""
    with world.in_use():
        for name in ALL:
            yield name, values_of(config_of(name, world))


def main(write: bool) -> None:
    """See the module."""
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for name, values in all_values(world_with_masks(Path(folder) / "world")):
            print(name, values["losses"][-1], file=sys.stderr)
            found[name] = values
    if write:
        lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(values)}" for name, values in found.items())
        FILE.write_text(f"{{\n{lines}\n}}\n")
        return
    before = json.loads(FILE.read_text())
    changed = [name for name in found if found[name] != before.get(name)]
    print("\n".join(f"differs: {name}" for name in changed) or f"All {len(found)} configs are equal, bit for bit.")
    sys.exit(bool(changed))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--compare", action="store_true")
    main(parser.parse_args().write)
