"""tools/train_net.py, except that every worker leaves its weights in OUTPUT_DIR, not only the first.

The workers that tools/train_net.py spawns import this file as it does, and so do the same.
"""

import runpy
from pathlib import Path

import torch

from dk_detr.engine import Trainer

train_only = Trainer.train


def train_and_save(self: Trainer) -> None:
    """Train; save the weights of this worker."""
    train_only(self)
    torch.save(self.model.module.state_dict(), f"{self.cfg.OUTPUT_DIR}/worker_{torch.distributed.get_rank()}.pth")


Trainer.train = train_and_save  # type: ignore[method-assign]

if __name__ == "__main__":
    tool = runpy.run_path(str(Path(__file__).resolve().parents[2] / "tools" / "train_net.py"))
    tool["main"](tool["parse"]())
