"""NMS as one operator, in PyTorch and in ONNX."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dk_detr.export.nms import onnx_survivors, survivors
from dk_detr.modeling.postprocess import best_pairs_after_nms

COUNT, IOU = 6, 0.4


def crowd() -> tuple[Tensor, Tensor]:
    """(2, 30, 4) boxes that overlap, and (2, 30, 3) scores, some of them 0."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(2, 30, 2, generator=generator) * 20
    scores = (torch.rand(2, 30, 3, generator=generator) - 0.2).clamp(min=0)
    return torch.cat([corner, corner + 10 + corner.flip(-1) / 4], dim=-1), scores


class Module(nn.Module):
    def forward(self, boxes: Tensor, scores: Tensor) -> Tensor:
        return survivors(boxes, scores, IOU, COUNT)


def test_the_best_survivors_are_those_of_the_detector() -> None:
    boxes, scores = crowd()
    kept = survivors(boxes, scores, IOU, COUNT)
    for image in range(2):
        query, word, best = best_pairs_after_nms(scores[image], boxes[image], COUNT, IOU)
        survived = torch.where(kept[image], scores[image], 0.0).flatten().topk(COUNT)
        assert torch.equal(survived.values, best) and torch.equal(survived.indices, query * 3 + word)
    assert 0 < kept.sum() < (scores > 0).sum()


def test_onnx_has_the_same_survivors(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    boxes, scores = crowd()
    table = {torch.ops.dk_detr.survivors.default: onnx_survivors}
    program = torch.export.export(Module(), (boxes, scores), strict=False)
    exported = torch.onnx.export(program, custom_translation_table=table, opset_version=18, verbose=False)
    session = onnxruntime.InferenceSession(exported.model_proto.SerializeToString())
    for given in (scores, torch.zeros_like(scores)):
        inputs = dict(zip([each.name for each in session.get_inputs()], (boxes.numpy(), given.numpy())))
        (kept,) = session.run(None, inputs)
        assert torch.equal(torch.from_numpy(kept), survivors(boxes, given, IOU, COUNT))
