"""One part, in a process of its own: python -m dk_detr.commands.gpu_check.work PART SETTINGS NOTEBOOK"""

import json
import os
import signal
import sys
import threading
import time

import dk_detr  # noqa: F401  makes Detectron2 importable
from dk_detr.commands.gpu_check.finding import Notebook, Settings, attempt
from dk_detr.commands.gpu_check.parts import PARTS


def main(name: str, settings: str, notebook: str) -> None:
    """Find out, and write it into the notebook."""
    os.environ["DK_DETR_TRACEBACK"] = "1"  # errors of trainings are findings here
    told, given = Notebook(notebook), Settings(**json.loads(settings))
    attempt(told, name, lambda: PARTS[name].work(given, told))


def _end_with(parent: int) -> None:
    """Whoever started this may be killed; then nobody waits for it, and the card should be free."""
    while os.getppid() == parent:
        time.sleep(1)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    main(*sys.argv[1:])
