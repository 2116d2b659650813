#!/usr/bin/env python3
"""A web page to try a detector on: drop a picture, type words, move a threshold, see boxes and masks.

    tools/web_demo.py output/dk_detr_R50/model_final.pth
    tools/web_demo.py dk_detr_R50 --weights dk_detr.pth --port 8000

It needs Gradio (pip install -e '.[demo]') and no network. Only this machine can open it, unless --host says otherwise:
then everybody who reaches the machine can.
"""

import argparse

import dk_detr  # noqa: F401  registers the detectors; first, so that Detectron2 can be imported
from dk_detr.commands.web_demo import main


def parse() -> argparse.Namespace:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="WEIGHTS_OR_CONFIG", help="weights of a training, or a config")
    parser.add_argument("--weights", metavar="FILE", help="of a config")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0: all (default: %(default)s)")
    parser.add_argument("--max-megabytes", type=float, default=20, metavar="MB", help="of a picture (default: 20)")
    return parser.parse_args()


if __name__ == "__main__":
    main(parse())
