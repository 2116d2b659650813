"""An exported file in the place of the detector that it was made of."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from dk_detr.export.formats import ONNX, TORCH_EXPORT
from dk_detr.export.graph import DetectionGraph
from dk_detr.layers import resize
from dk_detr.structures import Vocabulary

Run = Callable[[Mapping[str, Tensor]], tuple[Tensor, ...]]


class Exported(nn.Module):
    """Takes Detectron2's samples as the detector does, and gives the same `Instances`, computed by the file.

    Args:
        run: the file: inputs by name -> outputs in the order of `graph.outputs`. graph: of the detector.
    """

    def __init__(self, run: Run, graph: DetectionGraph) -> None:
        super().__init__()
        self.run, self.outputs, self.inputs, self.fixed = run, graph.outputs, graph.inputs, graph.fixed_words
        self._model = (graph.model,)  # as a tuple, so that it is no child
        self._names = graph.model.vocabulary.names
        self.looks_at_objects = False

    @property
    def vocabulary(self) -> Vocabulary:
        """The words that `pred_classes` index."""
        return self._model[0].vocabulary

    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Detect these words from now on; where the file's are fixed, only these of them are told."""
        self._model[0].set_vocabulary(vocabulary)

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """One image after the other."""
        return [{"instances": self._detect(given)} for given in batched_inputs]

    def inputs_of(self, given: dict[str, Any]) -> dict[str, Tensor]:
        """What the file takes of an image, by name."""
        (model,), image = self._model, given["image"]
        size = given.get("height", image.shape[-2]), given.get("width", image.shape[-1])
        every = {
            "images": image[None].float(),
            "orig_target_sizes": torch.tensor([size]),
            "text_embeddings": model.text,
            "novel": model.novel,
        }
        return {name: every[name] for name in self.inputs}

    def _detect(self, given: dict[str, Any]) -> Instances:
        inputs = self.inputs_of(given)
        found = {name: output[0] for name, output in zip(self.outputs, self.run(inputs))}
        labels, told = self._labels(found["labels"]), found["scores"] > 0
        told &= labels >= 0
        size = tuple(inputs["orig_target_sizes"][0].tolist())
        instances = Instances(size, scores=found["scores"][told], pred_classes=labels[told])
        instances.pred_boxes = Boxes(found["boxes"][told])
        if "masks" in found:
            instances.pred_masks = resize(found["masks"][told], size) > 0.5
        return instances

    def _labels(self, labels: Tensor) -> Tensor:
        """In the order of the words that are asked for now; -1 for others."""
        if not self.fixed:
            return labels
        place = {name: index for index, name in enumerate(self.vocabulary.names)}
        known = torch.tensor([*(place.get(name, -1) for name in self._names), -1])
        return known[labels]


def open_exported(form: str, path: Path, graph: DetectionGraph) -> Exported:
    """The file of a format, on the CPU."""
    return Exported(_runner(form, path, graph), graph)


def _runner(form: str, path: Path, graph: DetectionGraph) -> Run:
    if form == ONNX:
        return _onnx_runner(path)
    if form == TORCH_EXPORT:
        program = torch.export.load(str(path)).module()
        return lambda inputs: program(**inputs)
    script = torch.jit.load(str(path))
    return lambda inputs: script(*(inputs[name] for name in graph.inputs))


def _onnx_runner(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        found = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        return tuple(map(torch.from_numpy, found))

    return run
