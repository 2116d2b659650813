"""A decoder that is not the loop of the DETR series: one entry of the table, and the rest of the house serves it.

B images, Q queries, S tokens, C channels.
"""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode, configurable
from torch import nn
from torch.nn import functional as F

from dk_detr.layers import box_head, inverse_sigmoid
from dk_detr.meta_arch import DETR
from dk_detr.modeling import DECODERS
from dk_detr.structures import Memory, QuerySet, Trace
from tests.model_fixtures import configured_detector, tiny_input, training_losses

DK_DETR = "dk_detr_R50"
INPUTS = [tiny_input(seed=1), tiny_input((32, 40), 3, seed=2)]


class OneLook(nn.Module):
    """Queries talk once, look at all tokens once, and say what they see."""

    num_prediction_heads = 1

    @configurable
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query, self.value = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.norm, self.box_head = nn.LayerNorm(channels), box_head(channels)

    @classmethod
    def from_config(cls, cfg: CfgNode, strides: Sequence[int | None], reference_width: int) -> dict[str, Any]:
        return {"channels": cfg.MODEL.DETR.CHANNELS}

    @staticmethod
    def refuse_bad_combinations(detr: CfgNode) -> None:
        if detr.QUERIES != "Proposals":
            raise ValueError(f'MODEL.DETR.DECODER "OneLook" wants QUERIES "Proposals", not "{detr.QUERIES}".')

    def forward(self, queries: QuerySet, memory: Memory) -> Trace:
        """See `Decoder`."""
        blocked, padding, content = queries.attention_mask(), memory.padding, queries.content
        may_see = None if blocked is None else ~blocked
        content = content + F.scaled_dot_product_attention(content, content, content, may_see)
        shown = None if padding is None else ~padding[:, None]
        query = self.query(content + queries.position)
        seen = F.scaled_dot_product_attention(query, memory.tokens, self.value(memory.tokens), shown)
        hidden_states = self.norm(content + seen)[None]
        boxes = (self.box_head(hidden_states) + inverse_sigmoid(queries.reference)).sigmoid()
        return Trace(hidden_states, boxes, queries)


@pytest.fixture(autouse=True)
def one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DECODERS, "OneLook", OneLook)


def detector_with(*extensions: str, like: DETR | None = None) -> DETR:
    """DK-DETR with this decoder and these extensions; with the weights of `like` where it has them."""
    detector = configured_detector(DK_DETR, DECODER="OneLook", TRAINING_EXTENSIONS=list(extensions))
    if like is not None:
        detector.load_state_dict({key: like.state_dict()[key] for key in detector.state_dict()})
    return detector


@pytest.mark.parametrize("extensions", [["Distillation"], ["ContrastiveDenoising", "Distillation"]], ids="+".join)
def test_a_foreign_decoder_trains_every_parameter_with_extensions(extensions: list[str]) -> None:
    detector = detector_with(*extensions)
    assert isinstance(detector.decoder, OneLook)
    losses = training_losses(detector, INPUTS)
    sum(losses.values()).backward()
    assert all(math.isfinite(loss.item()) and loss > 0 for loss in losses.values())
    assert any(name.startswith("loss_kd_") for name in losses)
    assert any(name.startswith("loss_dn_") for name in losses) is ("ContrastiveDenoising" in extensions)
    assert not [name for name, parameter in detector.named_parameters() if parameter.grad is None]


def test_its_detection_losses_are_those_of_one_that_is_not_taught() -> None:
    taught = detector_with("ContrastiveDenoising", "Distillation")
    losses, bare = training_losses(taught, INPUTS), training_losses(detector_with(like=taught), INPUTS)
    for name, loss in bare.items():
        torch.testing.assert_close(losses[name], loss, rtol=1e-5, atol=1e-6)


def test_it_learns_what_it_was_shown() -> None:
    detector = detector_with("Distillation")
    optimizer = torch.optim.AdamW(detector.parameters(), lr=2e-3)
    totals = []
    for _ in range(15):
        total: Any = sum(training_losses(detector, INPUTS).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.8 * totals[0]


def test_it_detects_the_same_in_company_and_alone() -> None:
    detector = detector_with("Distillation")
    for given, together in zip(INPUTS, detector(INPUTS)):
        found, (alone,) = together["instances"], detector([given])
        assert len(found) and torch.equal(found.pred_classes, alone["instances"].pred_classes)
        torch.testing.assert_close(found.scores, alone["instances"].scores, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found.pred_boxes.tensor, alone["instances"].pred_boxes.tensor, atol=1e-3, rtol=1e-4)


def test_what_it_cannot_use_it_refuses_and_the_keys_of_the_loop_do_not_concern_it() -> None:
    with pytest.raises(ValueError, match='DECODER "OneLook" wants QUERIES "Proposals", not "Mixed"'):
        configured_detector(DK_DETR, DECODER="OneLook", QUERIES="Mixed")
    names = dict.fromkeys(("REFINEMENT", "POSITION", "DECODER_ATTENTION", "BOXES", "HEADS"), "no such thing")
    loop: dict[str, Any] = {**names, "DECODER_LAYERS": 0}
    detector = configured_detector(DK_DETR, DECODER="OneLook", **loop)
    assert len(detector.classifier.projections) == 1


def test_a_decoder_without_layers_cannot_be_compiled_or_checkpointed() -> None:
    for key in ("COMPILED", "CHECKPOINTED"):
        with pytest.raises(ValueError, match=f'MODEL.DETR.{key} names "decoder", but OneLook has no layers'):
            configured_detector(DK_DETR, DECODER="OneLook", **{key: ["decoder"]})


def test_a_decoder_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(ValueError, match='MODEL.DETR.DECODER is "OneGlance"; choose one of DETR, AdaMixer, OneLook'):
        configured_detector(DK_DETR, DECODER="OneGlance")
