"""A detector that draws masks: they change no box, learn from matched queries, and go with the image alone."""

from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from dk_detr.engine.checkpoint import StrictCheckpointer
from dk_detr.meta_arch import DETR, build
from dk_detr.meta_arch.combinations import refuse_bad_combinations
from dk_detr.modeling import DynamicMasks
from dk_detr.modeling.masks import frame
from tests.model_fixtures import (
    TwoConvolutions,
    configured_detector,
    outlined,
    tiny_config,
    tiny_input,
    training_losses,
)

MASKS: dict[str, Any] = {"MODEL__MASK_ON": True, "MASKS": "Dynamic"}
LOSSES = {"loss_mask_dice", "loss_mask_bce"}
DETECTORS = ("dk_detr_R50", "deformable_detr_two_stage_R50", "dino_R50_4scale")


def detector(name: str = "dk_detr_R50", **options: Any) -> DETR:
    return configured_detector(name, **{**MASKS, **options})


def inputs(form: str = "polygon") -> list[dict[str, Any]]:
    return [outlined(tiny_input(seed=1), form), outlined(tiny_input((32, 40), 3, seed=2), form)]


def found(made: DETR, samples: list[dict[str, Any]]) -> list[Any]:
    with torch.no_grad():
        return [output["instances"] for output in made(samples)]


@pytest.mark.parametrize("name", DETECTORS)
def test_any_detector_of_stride_8_learns_and_draws_masks(name: str) -> None:
    made = detector(name)
    losses = training_losses(made, inputs())
    assert losses.keys() >= LOSSES and all(losses[loss] > 0 for loss in LOSSES)
    for instances, sample in zip(found(made.eval(), inputs()), inputs()):
        assert instances.pred_masks.shape == (len(instances), sample["height"], sample["width"])
        assert instances.pred_masks.dtype == torch.bool and 0 < instances.pred_masks.float().mean() < 1


@pytest.mark.parametrize("name", DETECTORS)
def test_boxes_and_their_losses_are_the_same_to_the_bit_without_masks(name: str) -> None:
    made, plain = detector(name), configured_detector(name)
    plain.load_state_dict({k: v for k, v in made.state_dict().items() if not k.startswith("mask_head.")})
    for ours, theirs in zip(found(made, inputs()), found(plain, inputs())):
        assert torch.equal(ours.pred_boxes.tensor, theirs.pred_boxes.tensor)
        assert torch.equal(ours.scores, theirs.scores) and not theirs.has("pred_masks")
    losses = []
    for each in (made, plain):
        torch.manual_seed(0)
        losses.append(training_losses(each, inputs()))
    assert {k: v for k, v in losses[0].items() if k not in LOSSES} == losses[1]


def test_no_gradient_of_masks_reaches_the_boxes_and_all_else_learns() -> None:
    made = detector()
    losses = training_losses(made, inputs())
    sum(losses[loss] for loss in LOSSES).backward()
    learns = {name for name, p in made.named_parameters() if p.grad is not None and p.grad.any()}
    assert {name for name, _ in made.named_parameters() if name.startswith("mask_head.")} <= learns
    for part in ("backbone", "neck", "encoder", "decoder.layers"):
        assert any(name.startswith(part) for name in learns)
    # Boxes of a layer are where the next layer looks, but the last layer's are nowhere.
    last = f"decoder.box_heads.{len(made.decoder.layers) - 1}."
    assert not any(name.startswith((last, "classifier.", "queries.objectness")) for name in learns)


def test_matched_queries_of_all_layers_learn_and_each_from_its_object() -> None:
    made, seen = detector(), []
    whole = DynamicMasks.forward

    def watched(self: DynamicMasks, hidden_states: Tensor, boxes: Tensor, image: Tensor, memory: Any) -> Tensor:
        seen.append((len(boxes), image))
        return whole(self, hidden_states, boxes, image, memory)

    with patch.object(DynamicMasks, "forward", watched):
        training_losses(made, inputs())
    layers, objects = len(made.decoder.layers), (2, 3)
    ((number, image),) = seen
    assert number == layers * sum(objects) and image.bincount().tolist() == [layers * count for count in objects]


def test_polygons_and_bitmaps_teach_the_same() -> None:
    losses = [training_losses(detector(), inputs(form)) for form in ("polygon", "bitmask")]
    assert_close(*({name: each[name] for name in LOSSES} for each in losses))


def test_masks_learned_in_portions_are_masks_learned_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for at_once in (2**24, 1):
        monkeypatch.setattr(frame, "LEARNED_AT_ONCE", at_once)
        made = detector()
        losses = training_losses(made, inputs())
        sum(losses[loss] for loss in LOSSES).backward()
        gradients = {name: p.grad for name, p in made.named_parameters() if p.grad is not None}
        results.append(({name: losses[name].detach() for name in LOSSES}, gradients))
    assert_close(*results, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("objects", [(0, 0), (0, 3)])
def test_images_without_objects_train(objects: tuple[int, int]) -> None:
    made = detector()
    samples = [outlined(tiny_input(num_objects=count, seed=seed)) for seed, count in enumerate(objects)]
    losses = training_losses(made, samples)
    sum(losses.values()).backward()
    assert all(p.grad is not None for name, p in made.named_parameters() if name.startswith("mask_head."))
    assert all(p.grad.isfinite().all() for p in made.parameters() if p.grad is not None)
    assert (sum(losses[loss] for loss in LOSSES) == 0) == (sum(objects) == 0)


@pytest.mark.parametrize("padded", [0, 64])
def test_an_image_has_the_same_masks_alone_and_in_company(padded: int) -> None:
    made = detector()
    made.padded_size = padded
    together = found(made, inputs())
    for alone, one in zip((found(made, [sample])[0] for sample in inputs()), together):
        assert_close(alone.scores, one.scores)
        assert (alone.pred_masks != one.pred_masks).float().mean() < 1e-3


def test_masks_are_the_same_drawn_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    made = detector()
    together = found(made, inputs())
    monkeypatch.setattr(frame, "PIXELS_AT_ONCE", 1)
    for one, other in zip(together, found(made, inputs())):
        assert (one.pred_masks != other.pred_masks).float().mean() < 1e-4


def test_a_query_that_is_several_words_is_drawn_once() -> None:
    made, drawn = detector(), []
    whole = DynamicMasks.forward

    def watched(self: DynamicMasks, hidden_states: Tensor, *rest: Any) -> Tensor:
        drawn.append(len(hidden_states))
        return whole(self, hidden_states, *rest)

    with patch.object(DynamicMasks, "forward", watched):
        (one,) = found(made, inputs()[:1])
    assert sum(drawn) == len(one.query.unique()) < len(one)
    for query in one.query.unique():
        same = one.pred_masks[one.query == query]
        assert (same == same[:1]).all()


def test_other_words_leave_masks_to_draw() -> None:
    made = detector()
    made.set_vocabulary(made.train_vocabulary)
    assert all(one.has("pred_masks") and len(one) for one in found(made, inputs()))


def test_sides_that_eight_does_not_divide_have_a_cell_more() -> None:
    made, sample = detector(), outlined(tiny_input((37, 45), seed=3))
    losses = training_losses(made, [sample, *inputs()])
    assert all(losses[loss].isfinite() for loss in LOSSES)
    (one,) = found(made.eval(), [sample])
    assert one.pred_masks.shape == (len(one), 37, 45)


def test_nothing_found_has_no_masks() -> None:
    made = detector()
    with patch.object(
        type(made.heads), "scores", lambda self, trace, *rest: trace.hidden_states[-1].new_zeros(1, 12, 5)
    ):
        (one,) = found(made, inputs()[:1])
    assert one.pred_masks.shape == (0, 40, 48)


def test_objects_without_masks_are_refused_by_the_name_of_their_image() -> None:
    with pytest.raises(ValueError, match="Image 1.jpg: its objects have no masks, but MODEL.MASK_ON"):
        training_losses(detector(), [tiny_input(seed=1)])


def test_half_floats_train() -> None:
    made = detector().train()
    with torch.autocast("cpu", torch.bfloat16):
        half = made(inputs())
    whole = made(inputs())
    for name in LOSSES:
        assert half[name].item() == pytest.approx(whole[name].item(), rel=0.2)


# ---- what a config may ask for ----


def test_masks_need_both_keys_and_either_off_is_boxes_alone() -> None:
    assert configured_detector("dk_detr_R50", MASKS="Dynamic").mask_head is None
    with pytest.raises(ValueError, match='MODEL.MASK_ON asks for masks, and MODEL.DETR.MASKS "" draws none'):
        refuse_bad_combinations(tiny_config("dk_detr_R50", MODEL__MASK_ON=True))
    with pytest.raises(ValueError, match="MODEL.DETR.MASKS"):
        refuse_bad_combinations(tiny_config("dk_detr_R50", MODEL__MASK_ON=True, MASKS="Static"))
    with pytest.raises(ValueError, match="MASK_WEIGHTS.DICE must be 0 or more"):
        refuse_bad_combinations(tiny_config("dk_detr_R50", **MASKS, LOSS__MASK_WEIGHTS__DICE=-1.0))


def test_a_coarse_memory_is_refused() -> None:
    cfg = tiny_config("dk_detr_R50", **MASKS)
    coarse = TwoConvolutions()
    spec = coarse.output_shape()["fine"]
    told = patch.object(coarse, "output_shape", lambda: {"fine": spec._replace(stride=16)})
    with told, pytest.raises(ValueError, match='begins with "fine", of stride 16: too coarse for masks'):
        build.build_mask_head(cfg, coarse)


def test_a_detector_of_boxes_takes_weights_with_masks_and_says_what_it_leaves(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    made, plain = detector(), configured_detector("dk_detr_R50")
    torch.save({"model": made.state_dict()}, tmp_path / "masks.pth")
    with caplog.at_level("INFO"):
        StrictCheckpointer(plain).load(str(tmp_path / "masks.pth"))
    assert torch.equal(plain.state_dict()["encoder.level_embed"], made.state_dict()["encoder.level_embed"])
    assert "holds a mask_head, which MODEL.MASK_ON False or" in caplog.text
    torch.save({"model": plain.state_dict()}, tmp_path / "boxes.pth")
    with pytest.raises(ValueError, match="mask_head"):
        StrictCheckpointer(made).load(str(tmp_path / "boxes.pth"))


def test_no_mask_is_drawn_of_what_scores_too_little() -> None:
    detector = configured_detector("dk_detr_mask_R50").eval()
    with torch.no_grad():
        (whole,) = detector([tiny_input()])
        least = whole["instances"].scores.median().item()
        detector.least_score = least
        (some,) = detector([tiny_input()])
    kept = whole["instances"][whole["instances"].scores >= least]
    assert 0 < len(kept) == len(some["instances"]) < len(whole["instances"])
    assert torch.equal(some["instances"].pred_masks, kept.pred_masks)
