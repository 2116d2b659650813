"""tools/train_net.py, except that the process of rank 1 is killed in its second iteration, before any restart."""

import os
import runpy
import signal
from pathlib import Path

from dk_detr.engine import Trainer

TOOL = Path(__file__).resolve().parents[2] / "tools" / "train_net.py"
step = Trainer.run_step


def step_or_die(trainer: Trainer) -> None:
    """An iteration."""
    if trainer.iter == 1 and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    step(trainer)


if __name__ == "__main__":
    Trainer.run_step = step_or_die  # type: ignore[method-assign]
    runpy.run_path(str(TOOL), run_name="__main__")
