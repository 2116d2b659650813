#!/usr/bin/env python3
"""List the configs: what each is, its paper, published figures and ours, and the command that runs it.

    tools/list_configs.py                       all, also those of projects
    tools/list_configs.py masks                 those whose name or description has the word; several: all of them
    tools/list_configs.py dino R50 --measure    build each, and count parameters and GFLOPs (seconds a config)
    tools/list_configs.py mini --markdown       as Markdown

GFLOPs are 1e9 multiply-adds, by fvcore, of one image 4:3 at the config's test size. Open detectors are asked for COCO's
80 words, with embeddings of width 512.
"""

import argparse
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent


def load_command() -> ModuleType:
    """What stands behind this tool, loaded by its path: importing the package takes longer than the work."""
    spec = importlib.util.spec_from_file_location("list_configs_command", ROOT / "dk_detr/commands/list_configs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def parse() -> argparse.Namespace:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="WORD", help="in the name, description, paper or figures")
    parser.add_argument("--measure", action="store_true", help="build each detector: parameters and GFLOPs")
    parser.add_argument("--markdown", action="store_true")
    parser.set_defaults(root=str(ROOT))
    return parser.parse_args()


if __name__ == "__main__":
    load_command().main(parse())
