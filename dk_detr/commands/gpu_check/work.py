"""One part, in a process of its own: python -m dk_detr.commands.gpu_check.work PART SETTINGS NOTEBOOK"""

import json
import os
import sys

import dk_detr  # noqa: F401  makes Detectron2 importable
from dk_detr.commands.gpu_check.finding import Notebook, Settings, attempt
from dk_detr.commands.gpu_check.parts import PARTS


def main(name: str, settings: str, notebook: str) -> None:
    """Find out, and write it into the notebook."""
    os.environ["DK_DETR_TRACEBACK"] = "1"  # errors of trainings are findings here
    told, given = Notebook(notebook), Settings(**json.loads(settings))
    attempt(told, name, lambda: PARTS[name].work(given, told))


if __name__ == "__main__":
    main(*sys.argv[1:])
