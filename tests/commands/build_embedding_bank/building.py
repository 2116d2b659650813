"""A world in which banks can be built: that of the runs, a CLIP with weights, and an untrained detector."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode

from dk_detr.commands.build_embedding_bank.builder import build_bank
from dk_detr.commands.build_embedding_bank.process import ALONE, Process
from dk_detr.commands.build_embedding_bank.settings import BankRequest, Selection
from dk_detr.data.bank import EmbeddingBank
from dk_detr.engine import Trainer, one_clear_error, setup_cfg
from dk_detr.language import load_clip
from tests.run_fixtures import MINI, World, make_world, own_log_handlers

PER_SHARD = 3  # of eight images: three shards
REGIONS = 6


def request(output: Path, regions: int = REGIONS, nms: float = 0.7, **more: Any) -> BankRequest:
    """A small bank."""
    return BankRequest(str(output), selection=Selection(regions, nms), **{"images_per_shard": PER_SHARD, **more})


@dataclass(frozen=True)
class BankWorld:
    """Where the files are; `clip.pt` and `detector.pth` beside those of the world."""

    world: World

    def options(self, **more: Any) -> list[str]:
        """KEY VALUE pairs for tools/build_embedding_bank.py."""
        root = self.world.root
        files = {"MODEL__CLIP__WEIGHTS": root / "clip.pt", "MODEL__WEIGHTS": root / "detector.pth"}
        return self.world.options(**{**files, **more})

    def config(self, options: dict[str, Any] | None = None) -> CfgNode:
        """The config of a build."""
        return setup_cfg(MINI, self.options(**(options or {})))

    def build(
        self, output: Path, options: dict[str, Any] | None = None, shards: str | None = None, estimate: bool = False,
        process: Process = ALONE, **more: Any,
    ) -> Path:  # fmt: skip
        """Build in this process, as the tool would; returns the folder."""
        with self.in_use(), one_clear_error():
            build_bank(self.config(options), request(output, **more), shards, estimate, process)
        return output

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """The registered data sets are those of this world."""
        with self.world.in_use(), own_log_handlers():
            yield

    def train(self, output: Path, bank: Path, **more: Any) -> Path:
        """Train with a bank."""
        weights = {"MODEL__CLIP__WEIGHTS": self.world.root / "clip.pt", "MODEL__KD__QUERIES": "SelectedAuxiliary"}
        teacher = {"MODEL__TEACHER__NAME": "EmbeddingBank", "MODEL__TEACHER__BANK": bank}
        return self.world.train(output, **{**weights, **teacher, **more})


def make_bank_world(root: Path) -> BankWorld:
    """Write one."""
    made = BankWorld(make_world(root))
    with torch.random.fork_rng(devices=[]), made.in_use():
        torch.manual_seed(0)
        clip = load_clip("open_clip", str(root / "clip.json"), "")
        torch.save(clip.model.state_dict(), root / "clip.pt")
        detector = Trainer.build_model(setup_cfg(MINI, made.options(MODEL__TRAINING_EXTENSIONS=[])))
        torch.save({"model": detector.state_dict()}, root / "detector.pth")
    return made


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a bank, byte for byte."""
    EmbeddingBank(folder).verify()
    return {path.name: path.read_bytes() for path in folder.iterdir()}
