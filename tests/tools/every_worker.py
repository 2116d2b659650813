"""tools/train_net.py, except that every worker leaves its weights in OUTPUT_DIR, not only the first."""

import runpy
from pathlib import Path
from typing import Any

import torch

from dk_detr.commands import train
from dk_detr.engine import Trainer

TOOL = Path(__file__).resolve().parents[2] / "tools" / "train_net.py"
work = train.train_or_evaluate


class SavesEverywhere(Trainer):
    """Each worker writes `worker_<rank>.pth`."""

    def train(self) -> Any:
        super().train()
        torch.save(self.model.module.state_dict(), f"{self.cfg.OUTPUT_DIR}/worker_{torch.distributed.get_rank()}.pth")


def train_and_save(*args: Any) -> None:
    """The work of one process."""
    train.Trainer = SavesEverywhere  # type: ignore[misc]
    work(*args)


if __name__ == "__main__":
    train.train_or_evaluate = train_and_save
    tool = runpy.run_path(str(TOOL))
    tool["main"](tool["parse"]())
