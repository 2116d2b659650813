"""What tools/score.py does."""

import argparse
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from dk_detr.engine.setup import one_clear_error
from dk_detr.evaluation import evaluate_file
from dk_detr.utils import as_json, atomic_write
from dk_detr.utils.names import novel_names


def main(args: argparse.Namespace) -> None:
    """See tools/score.py for the arguments."""
    with one_clear_error():
        with _printed("dk_detr.evaluation"):
            results = evaluate_file(
                args.annotations, args.results, args.protocol, novel_names(args.novel), None, args.iou_type, args.tables
            )
        if args.json:
            atomic_write(args.json, as_json(results, indent=2))


@contextmanager
def _printed(name: str) -> Iterator[None]:
    """Print what a logger says, without time and level: the tables are the answer, not a log."""
    logger, handler = logging.getLogger(name), logging.StreamHandler(sys.stdout)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
