"""The files: what they give is what the graph gives."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dk_detr.export import Request, formats, write
from dk_detr.export.check import compare
from dk_detr.export.exported import open_exported
from dk_detr.export.half import in_half_floats, nodes_of_words
from tests.export_fixtures import SHALLOW, as_tensors, exported_file, graph_of, inputs_of, samples
from tests.model_fixtures import random

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="session")
def file(tmp_path_factory: pytest.TempPathFactory):
    return exported_file(tmp_path_factory.getbasetemp())


def test_onnx_detects_what_the_detector_does_in_images_of_other_sizes(file) -> None:
    graph, path = file
    exported = open_exported("onnx", path, graph)
    compared = compare(graph.model, exported, [*samples(2), *samples(2, (33, 71))])
    assert compared.good, compared.describe()
    assert "times as fast" in compared.times()


@torch.no_grad()
def test_onnx_takes_any_number_of_images_and_of_words(file) -> None:
    graph, path = file
    session = onnxruntime.InferenceSession(str(path))
    for images, words in ((1, 1), (3, 7)):
        text = torch.nn.functional.normalize(random(words, graph.model.text.shape[1], seed=words), dim=1)
        inputs = {**inputs_of(graph, samples(images)), "text_embeddings": text}
        found = as_tensors(session.run(None, {name: value.numpy() for name, value in inputs.items()}))
        for ours, theirs in zip(graph(**inputs), found):
            assert ours.shape == theirs.shape and torch.allclose(ours.float(), theirs.float(), atol=1e-3)


def test_onnx_says_what_it_is(file) -> None:
    model = onnx.load(file[1])
    assert [opset.version >= 17 for opset in model.opset_import if opset.domain in ("", "ai.onnx")] == [True]
    assert {"GridSample", "LayerNormalization"} <= {node.op_type for node in model.graph.node}
    told = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(told["names"]) == list(file[0].model.vocabulary.names)
    axes = {given.name: [axis.dim_param for axis in given.type.tensor_type.shape.dim] for given in model.graph.input}
    assert axes["images"] == ["batch", "", "height", "width"] and axes["text_embeddings"] == ["words", ""]


def test_half_floats_hold_the_weights_but_not_the_scores(file) -> None:
    graph, path = file
    model = onnx.load(path)
    half = in_half_floats(model, nodes_of_words(model.graph, ("text_embeddings",)))
    halves = [each for each in half.graph.initializer if each.data_type == onnx.TensorProto.FLOAT16]
    weights = sum(parameter.numel() for parameter in graph.model.parameters() if parameter.ndim > 1)
    assert sum(int(np.prod(each.dims)) for each in halves) > 0.5 * weights
    session = onnxruntime.InferenceSession(half.SerializeToString())
    scores = session.run(["scores"], {name: value.numpy() for name, value in inputs_of(graph, samples(1)).items()})[0]
    expected = graph(**inputs_of(graph, samples(1)))[2].detach()
    assert torch.allclose(torch.from_numpy(scores), expected, atol=0.02)


def test_scores_of_fixed_words_are_in_full_precision_though_folding_renames_the_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Words(torch.nn.Module):
        """The end of a detector: features against words that are its own."""

        def __init__(self) -> None:
            super().__init__()
            self.model = torch.nn.Module()
            self.model.register_buffer("text", random(7, 6))
            self.project = torch.nn.Linear(5, 6)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.project(images) @ self.model.text.T / 0.05

    program = torch.export.export(Words(), (random(2, 3, 5),))
    monkeypatch.setattr(formats, "_exported", lambda graph, request: program)
    named = SimpleNamespace(inputs=("images",), outputs=("scores",))
    formats.write("onnx", named, Request(tmp_path / "x.onnx", {}, "float16"))
    graph = onnx.load(tmp_path / "x.onnx").graph
    halves = {tuple(each.dims) for each in graph.initializer if each.data_type == onnx.TensorProto.FLOAT16}
    whole = {tuple(each.dims) for each in graph.initializer if each.data_type == onnx.TensorProto.FLOAT}
    assert halves & {(5, 6), (6, 5)} and not halves & {(7, 6), (6, 7)} and whole & {(7, 6), (6, 7)}


@pytest.mark.parametrize("form", ["torch_export", "torchscript"])
def test_files_of_torch_detect_what_the_detector_does(form: str, tmp_path: Path) -> None:
    graph, path = graph_of("detr_R50", **SHALLOW), tmp_path / "detector"
    write(form, graph, Request(path, {"format": "some"}, image_size=(40, 48)))
    compared = compare(graph.model, open_exported(form, path, graph), samples(2))
    assert compared.good, compared.describe()
    told = {"metadata.json": ""}
    if form == "torchscript":
        torch.jit.load(str(path), _extra_files=told)
    else:
        torch.export.load(str(path), extra_files=told)
    assert json.loads(told["metadata.json"]) == {"format": "some"}


def test_torchscript_is_of_one_size(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--image-size HEIGHT WIDTH"):
        write("torchscript", graph_of("dk_detr_R50", **SHALLOW), Request(tmp_path / "x.ts", {}))
