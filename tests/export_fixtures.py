"""A tiny detector that is exported once for the tests of several rooms."""

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dk_detr.export import DetectionGraph, Request, write
from dk_detr.language import is_closed, save_vocabulary
from dk_detr.meta_arch import DETR
from dk_detr.structures import Vocabulary
from tests.model_fixtures import config_of, configured_detector, tiny_input, tiny_vocabulary

SHALLOW = {"ENCODER_LAYERS": 0, "DECODER_LAYERS": 1}  # exporters take seconds for each layer


def graph_of(name: str, padded_side: int = 0, **options: Any) -> DetectionGraph:
    """The graph of a file of configs/ as a tiny detector."""
    model: DETR = configured_detector(name, **options)
    model.padded_size = padded_side
    return DetectionGraph(model, is_closed(config_of(name))).eval()


def samples(number: int, size: tuple[int, int] = (40, 48)) -> list[dict[str, Any]]:
    """Images of one size whose detections are wanted in another, each in its own."""
    given = [tiny_input(size, seed=seed) for seed in range(number)]
    return [{**one, "height": 60 + seed, "width": 90} for seed, one in enumerate(given)]


def inputs_of(graph: DetectionGraph, given: list[dict[str, Any]]) -> dict[str, Tensor]:
    """What the graph takes of a batch, by name."""
    every = {
        "images": torch.stack([one["image"] for one in given]),
        "orig_target_sizes": torch.tensor([(one["height"], one["width"]) for one in given]),
        "text_embeddings": graph.model.text,
        "novel": graph.model.novel,
    }
    return {name: every[name] for name in graph.inputs}


def metadata() -> dict[str, str]:
    """That of the detector of `exported_file`."""
    words = tiny_vocabulary()
    told = {
        "names": words.names, "novel": words.novel.tolist(), "train_names": words.base().names,
        "provenance": {"probe": "[1.0, 0.0]"}, "min_size": 40, "max_size": 64, "padded_side": 0, "image_size": None,
    }  # fmt: skip
    texts = {"format": "dk_detr export 1", "words": "input", "order": "RGB", "outputs": "labels,boxes,scores"}
    return texts | {key: json.dumps(value) for key, value in told.items()}


@functools.cache
def exported_file(folder: Path) -> tuple[DetectionGraph, Path]:
    """An open detector, and the ONNX file of it: of any number of images, of any size, for any words."""
    graph, path = graph_of("dk_detr_R50", **SHALLOW), folder / "detector.onnx"
    write("onnx", graph, Request(path, metadata(), usual_size=(40, 40)))
    return graph, path


def write_words(path: Path, vocabulary: Vocabulary) -> Path:
    """A vocabulary file."""
    save_vocabulary(vocabulary, str(path))
    return path


def as_tensors(found: list[np.ndarray]) -> list[Tensor]:
    """The outputs of ONNX Runtime."""
    return [torch.from_numpy(each) for each in found]
