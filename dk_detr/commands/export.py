"""What tools/export.py does: write a trained detector as a file that runs without dk_detr, and check it."""

import argparse
import importlib.util
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import detectron2.data.transforms as T
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from dk_detr.data.image_files import find_images
from dk_detr.data.images import read_image, to_tensor
from dk_detr.data.resizing import evaluation_resize
from dk_detr.engine.evaluate import evaluate
from dk_detr.engine.predictor import Predictor
from dk_detr.engine.setup import one_clear_error, setup_cfg, with_values
from dk_detr.export import ONNX, DetectionGraph, Request, refuse_what_cannot_be_exported, write
from dk_detr.export.check import BOX_LIMIT, SCORE_LIMIT, compare
from dk_detr.export.exported import Exported, open_exported
from dk_detr.export.metadata import metadata_of
from dk_detr.language import is_closed

ENDINGS = {"onnx": ".onnx", "torch_export": ".pt2", "torchscript": ".ts"}
CHECKED = 16  # images of the data set that are compared, unless others are named
AP_LIMIT = 0.3  # points that half floats may cost
EAGER: dict[str, Any] = {"MODEL.DEVICE": "cpu", "MODEL.DETR.COMPILED": [], "MODEL.DETR.CHECKPOINTED": []}


def main(args: argparse.Namespace) -> None:
    """See tools/export.py for the arguments. Ends with exit status 1 where the file is not true to the detector."""
    with one_clear_error():
        cfg = with_values(setup_cfg(args.config_file, args.opts), EAGER)
        _refuse_bad_arguments(args, cfg)
        refuse_what_cannot_be_exported(cfg, args.format, args.words)
        samples = list(_samples(cfg, args.images, args.image_size)) if args.check else []
        model = Predictor(cfg).model
        fixed = is_closed(cfg) if args.words == "auto" else args.words == "fixed"
        graph = DetectionGraph(model, fixed).eval()
        size = tuple(args.image_size) if args.image_size else None
        usual = (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MIN_SIZE_TEST)
        request = Request(Path(args.output), metadata_of(cfg, graph, size), args.dtype, size, usual)
        write(args.format, graph, request)
        print(f"{args.output}: inputs {', '.join(graph.inputs)}; outputs {', '.join(graph.outputs)}")
        if args.check:
            check(cfg, args, graph, samples)


def check(cfg: CfgNode, args: argparse.Namespace, graph: DetectionGraph, samples: list[dict[str, Any]]) -> None:
    """Print how far the file is from the detector; of half floats the AP on DATASETS.TEST decides. Raises ValueError
    where it is too far."""
    exported = open_exported(args.format, Path(args.output), graph)
    compared = compare(graph.model, exported, samples)
    print(compared.describe(), compared.times(), sep="\n")
    if args.dtype != "float32":
        _check_ap(cfg, graph.model, exported)
    elif not compared.good:
        raise ValueError(
            f"{args.output} is not true to the detector: allowed are {BOX_LIMIT:g} of a coordinate, {SCORE_LIMIT:g} of "
            "a score, and none unmatched. Two proposals that are all but equal may change places: look at other images."
        )


def _check_ap(cfg: CfgNode, model: Any, exported: Exported) -> None:
    before, after = (evaluate(cfg, each) for each in (model, exported))
    for name, results in before.items():
        for kind, metrics in results.items():
            if "AP" not in metrics:
                continue
            ours, theirs = metrics["AP"], after[name][kind]["AP"]
            print(f"{name}, {kind}: AP {ours:.2f} eager, {theirs:.2f} exported")
            if abs(ours - theirs) > AP_LIMIT:
                raise ValueError(f"Half floats cost more than {AP_LIMIT} points of AP on {name}: use --dtype float32.")


def _refuse_bad_arguments(args: argparse.Namespace, cfg: CfgNode) -> None:
    wanted = ENDINGS[args.format]
    if Path(args.output).suffix != wanted:
        raise ValueError(f"--output {args.output} must end in {wanted} for --format {args.format}.")
    if args.dtype != "float32" and args.format != ONNX:
        raise ValueError(f"--dtype {args.dtype} is for --format onnx; files of torch convert with `.half()`.")
    if args.check and args.dtype != "float32" and not cfg.DATASETS.TEST:
        raise ValueError("--check of half floats compares AP, and DATASETS.TEST is empty: name a data set.")
    if args.images and not args.check:
        raise ValueError("--images are those that --check compares: add --check.")
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if not importlib.util.find_spec(name)]
    if args.format == ONNX and missing:
        raise ImportError(f"--format onnx needs the package {missing[0]}: pip install onnx onnxscript onnxruntime.")


def _samples(cfg: CfgNode, images: list[str], size: list[int] | None) -> Iterator[dict[str, Any]]:
    """Inputs of the detector: of these files, or of the first images of DATASETS.TEST."""
    files = [str(path) for path in find_images(images)] if images else _test_files(cfg)
    resize = T.Resize(tuple(size)) if size else evaluation_resize(cfg)
    for file in files:
        pixels = T.AugInput(read_image(file, cfg.INPUT.FORMAT))
        height, width = pixels.image.shape[:2]
        resize(pixels)
        yield {"image": to_tensor(pixels.image), "height": height, "width": width, "file_name": file}


def _test_files(cfg: CfgNode) -> list[str]:
    if not cfg.DATASETS.TEST:
        raise ValueError("DATASETS.TEST names no images to check with: name some, --images photos/.")
    return [record["file_name"] for record in islice(DatasetCatalog.get(cfg.DATASETS.TEST[0]), CHECKED)]
