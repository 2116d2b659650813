"""The files that a detector is exported to."""

import contextlib
import copy
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from dk_detr.export.graph import DetectionGraph
from dk_detr.export.half import in_half_floats, nodes_of_words
from dk_detr.export.nms import onnx_survivors
from dk_detr.utils import atomic_file

ONNX, TORCH_EXPORT, TORCHSCRIPT = "onnx", "torch_export", "torchscript"
DTYPES = ("float32", "float16")
OPSET = 18  # 17 has LayerNorm as one operator: put together from others it overflows in half floats
METADATA = "metadata.json"  # beside the program in files of torch
LEAST_SIDE = 64  # of the example that a graph is traced with


@dataclass(frozen=True)
class Request:
    """What is written.

    Attributes:
        path: of the file. metadata: see `metadata_of`. dtype: one of `DTYPES`.
        image_size: (h, w) of all images; None for any.
        usual_size: (h, w) of an image as the config makes them.
    """

    path: Path
    metadata: dict[str, str]
    dtype: str = "float32"
    image_size: tuple[int, int] | None = None
    usual_size: tuple[int, int] = (LEAST_SIDE, LEAST_SIDE)


def write(form: str, graph: DetectionGraph, request: Request) -> None:
    """Write a file of this format, one of `FORMATS`, whole or not at all. Raises ValueError for a detector whose parts
    it cannot express."""
    with torch.no_grad(), _quiet():
        FORMATS[form](graph, request)


def _write_onnx(graph: DetectionGraph, request: Request) -> None:
    import onnx
    from onnxscript import optimizer

    program: Any = torch.onnx.export(
        _exported(graph, request),
        dynamo=True,
        opset_version=OPSET,
        input_names=list(graph.inputs),
        output_names=list(graph.outputs),
        custom_translation_table={torch.ops.dk_detr.survivors.default: onnx_survivors},
        optimize=False,
        verbose=False,
    )
    spared = nodes_of_words(program.model_proto.graph, ("text_embeddings", "model.text"))
    # All of its rewriting is not sound: of two clamps in a row it leaves a bound undefined (onnxscript 0.7).
    optimizer.fold_constants(program.model)
    optimizer.remove_unused_nodes(program.model)
    model = program.model_proto
    if request.dtype == "float16":
        model = in_half_floats(model, spared)
    _name_axes(model)
    onnx.helper.set_model_props(model, request.metadata)
    onnx.checker.check_model(model)
    with atomic_file(request.path) as part:
        part.write_bytes(model.SerializeToString())


def _name_axes(model: Any) -> None:
    """Words in the place of the exporter's symbols."""
    axes = {"images": ("batch", "", "height", "width"), "text_embeddings": ("words",)}
    names: dict[str, str] = {}
    for given in model.graph.input:
        symbols = [axis.dim_param for axis in given.type.tensor_type.shape.dim]
        names |= {symbol: name for symbol, name in zip(symbols, axes.get(given.name, ())) if symbol and name}
    for given in (*model.graph.input, *model.graph.output):
        for axis in given.type.tensor_type.shape.dim:
            if axis.dim_param in names:
                axis.dim_param = names[axis.dim_param]


def _write_torch_export(graph: DetectionGraph, request: Request) -> None:
    content = io.BytesIO()
    torch.export.save(_exported(graph, request), content, extra_files={METADATA: json.dumps(request.metadata)})
    with atomic_file(request.path) as part:
        part.write_bytes(content.getvalue())


def _write_torchscript(graph: DetectionGraph, request: Request) -> None:
    """Of images of one size: a trace takes the numbers that are computed from it for constants."""
    if request.image_size is None:
        raise ValueError("--format torchscript traces images of one size: say which, --image-size HEIGHT WIDTH.")
    traced = copy.deepcopy(graph)
    for module in traced.modules():
        if hasattr(module, "backend"):
            module.backend = "reference"  # type: ignore[assignment]
    script = torch.jit.trace(traced, tuple(_example(graph, request).values()), check_trace=False)
    with atomic_file(request.path) as part:
        torch.jit.save(script, str(part), _extra_files={METADATA: json.dumps(request.metadata)})


FORMATS: dict[str, Callable[[DetectionGraph, Request], None]] = {
    ONNX: _write_onnx,
    TORCH_EXPORT: _write_torch_export,
    TORCHSCRIPT: _write_torchscript,
}
"""By their name in --format."""


def _exported(graph: DetectionGraph, request: Request) -> ExportedProgram:
    sides = {} if request.image_size else {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    first = {0: Dim.DYNAMIC}
    free = {"images": first | sides, "orig_target_sizes": first, "text_embeddings": first, "novel": first}
    shapes = {name: free[name] for name in graph.inputs}
    try:
        return torch.export.export(graph, (), _example(graph, request), dynamic_shapes=shapes, strict=False)
    except (torch._dynamo.exc.UserError, RuntimeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:300]
        which, hint = "images of any size", " Try images of one size: --image-size HEIGHT WIDTH."
        if request.image_size:
            which, hint = "images of one size", ""
        raise ValueError(f"torch.export finds no graph of this detector for {which}: {reason}{hint}") from error


def _example(graph: DetectionGraph, request: Request) -> dict[str, Tensor]:
    """Two images. Their sides differ, and from a square's: what is equal here would be so for good."""
    h, w = request.image_size or _odd(request.usual_size, graph.model.padded_size)
    model, device = graph.model, graph.model.device
    words = len(model.vocabulary) if len(model.vocabulary) > 1 else 2
    every = {
        "images": torch.zeros(2, 3, h, w, device=device),
        "orig_target_sizes": torch.tensor([[h, w], [h, w]], device=device),
        "text_embeddings": torch.ones(words, model.text.shape[1], device=device) / model.text.shape[1] ** 0.5,
        "novel": torch.zeros(words, dtype=torch.bool, device=device),
    }
    return {name: every[name] for name in graph.inputs}


def _odd(usual: tuple[int, int], side: int) -> tuple[int, int]:
    h, w = (max(each, LEAST_SIDE) for each in usual)
    return (side - side // 3, side - side // 5) if side else (h, w + w // 3)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters tell of their own steps and old functions."""
    levels = {name: logging.getLogger(name).level for name in ("onnxscript", "onnx_ir", "torch.onnx")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in levels:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
