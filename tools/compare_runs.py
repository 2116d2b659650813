#!/usr/bin/env python3
"""Train several configs with several seeds, and show them in one table and one picture.

    tools/compare_runs.py --config-file configs/mini/dab_detr.yaml configs/mini/dn_detr.yaml --output output/series
    tools/compare_runs.py --config-file configs/mini/{no_distillation,dk_detr}.yaml --output output/distillation \\
        --seeds 0 1 2 --baseline no_distillation --metric AP50-base AP50-novel \\
        --also-test mini_lvis_val --also-test mini_lvis_test@datasets_1
    tools/compare_runs.py --output output/rates --row slow configs/mini/detr.yaml SOLVER.BASE_LR 0.0003 \\
        --row fast configs/mini/detr.yaml SOLVER.BASE_LR 0.0012

Writes comparison.png, curves over iterations, and comparison.md, a table, into the folder; the runs lie there in
<row>/<seed>, without --seeds in <row>. An interrupted comparison goes on where it stopped; what is done is not
done again. For detectors with learned queries it also says how steadily they are matched: of the objects in some
training images, the share whose matched query is another than at the evaluation before.
"""

import argparse
from pathlib import Path

import dk_detr  # noqa: F401  registers the detectors; first, so that Detectron2 can be imported
from dk_detr.commands.compare_runs import main

PARALLEL = (
    "runs at a time, with an equal share of the CPU cores each, at most OMP_NUM_THREADS threads. Default: the number "
    "of cores, one thread each (two cores: 1.65 times the throughput of one run on both), or of runs if there are "
    "fewer; on a GPU 1"
)
ROW = "a row by this name, of a config with options of its own; repeatable, beside or in place of --config-file"
METRIC = "of boxes, or, as segm/AP50, of masks; of one of several test sets as mini_lvis_test/bbox/AP50"
ALSO_TEST = (
    "evaluate what was trained on one more data set, too; after @ a folder in place of DETECTRON2_DATASETS, after = "
    "its vocabulary file; repeatable"
)


def parse() -> argparse.Namespace:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", nargs="+", default=[], metavar="FILE", help="a row each")
    parser.add_argument("--row", nargs="+", action="append", default=[], metavar="NAME FILE KEY VALUE", help=ROW)
    parser.add_argument("--output", required=True, metavar="FOLDER")
    parser.add_argument("--seeds", nargs="+", type=int, default=[], metavar="SEED", help="train each config with each")
    parser.add_argument("--metric", nargs="+", default=["AP50-base"], help=METRIC)
    parser.add_argument("--baseline", default="", metavar="ROW", help="say how much the others differ from this one")
    parser.add_argument("--also-test", action="append", default=[], metavar="NAME[@FOLDER][=FILE]", help=ALSO_TEST)
    parser.add_argument("--period", type=int, default=250, help="iterations from one evaluation to the next")
    parser.add_argument("--parallel", type=int, metavar="N", help=PARALLEL)
    parser.add_argument("--matching-images", type=int, default=200, help="training images whose matching is followed")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE", help="config options of all runs")
    return parser.parse_args()


if __name__ == "__main__":
    main(parse(), Path(__file__).with_name("train_net.py"))
