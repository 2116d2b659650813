"""A detector whose novel words an ROI head says, which the teacher alone trains. B images, Q queries, K words."""

from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from dk_detr.distillation import refuse_terms_without_distillation
from dk_detr.meta_arch import DETR
from dk_detr.meta_arch.combinations import refuse_bad_combinations
from dk_detr.modeling import Heads, ROIHead
from dk_detr.structures import Vocabulary
from tests.model_fixtures import QUERIES, configured_detector, tiny_config, tiny_input, training_losses

INPUTS = [tiny_input(seed=1), tiny_input((32, 40), 3, seed=2)]
OPTIONS: dict[str, Any] = {"MODEL__KD__QUERIES": "ROIHead", "MODEL__KD__SLOT_FILTERS": ["duplicates"]}


def detector() -> DETR:
    return configured_detector("dk_detr_R50", **OPTIONS)


def scores(made: DETR) -> Tensor:
    """(B, Q, K) of the detections, before any is chosen."""
    seen: list[Tensor] = []
    whole = Heads.scores

    def watched(*given: Any) -> Tensor:
        seen.append(whole(*given))
        return seen[-1]

    with patch.object(Heads, "scores", watched):
        made(INPUTS)
    return seen[0]


def test_the_head_says_the_novel_words_and_nothing_else() -> None:
    made = detector()
    before = scores(made)
    with torch.no_grad():
        made.roi_head.embed[-1].bias.normal_(generator=torch.Generator().manual_seed(0))
    after = scores(made)
    assert torch.equal(before[..., ~made.novel], after[..., ~made.novel])
    assert (before[..., made.novel] != after[..., made.novel]).all()


def test_base_words_and_boxes_are_those_of_the_queries() -> None:
    made = detector()
    made.num_detections = QUERIES * len(made.vocabulary)
    found = made(INPUTS)
    made.roi_head = None
    for one, other in zip(found, made(INPUTS)):
        ours, theirs = one["instances"], other["instances"]
        base = [~made.novel[each.pred_classes] for each in (ours, theirs)]
        assert torch.equal(ours.scores[base[0]], theirs.scores[base[1]])
        assert torch.equal(ours.pred_boxes.tensor[base[0]], theirs.pred_boxes.tensor[base[1]])


def test_a_novel_word_is_as_likely_as_what_lies_in_the_last_box_is_like_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made, asked = detector(), []
    whole = ROIHead.of_queries

    def watched(self: ROIHead, boxes: Tensor, memory: Any) -> Tensor:
        asked.append(boxes)
        return whole(self, boxes, memory) * 0 + made.text[1]  # the first novel word everywhere

    monkeypatch.setattr(ROIHead, "of_queries", watched)
    said = scores(made)
    expected = (made.text @ made.text[1] / made.classifier.temperature).sigmoid()
    assert_close(said[..., made.novel], expected[made.novel].expand(*said.shape[:2], -1))
    found = made(INPUTS[:1])[0]["instances"]
    assert len(asked) == 2 and asked[0].shape == (2, QUERIES, 4) and len(found)


def test_it_is_not_asked_where_all_words_were_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    made = detector()
    made.set_vocabulary(made.train_vocabulary)
    monkeypatch.setattr(ROIHead, "forward", lambda *_: pytest.fail("nobody asks it"))
    made(INPUTS)


def test_words_are_novel_if_they_were_not_trained_whatever_the_vocabulary_says() -> None:
    made = detector()
    wanted, words = scores(made), made.vocabulary
    made.set_vocabulary(Vocabulary(words.names, words.embeddings, torch.zeros_like(words.novel), words.provenance))
    assert torch.equal(scores(made), wanted)


def test_the_teacher_alone_trains_it_and_nothing_is_decoded_for_it() -> None:
    made = detector()
    decoded: list[int] = []
    made.decoder.register_forward_pre_hook(lambda _, given: decoded.append(len(given[0].groups)))
    losses = training_losses(made, INPUTS)
    assert decoded == [1]
    labels = {name: loss for name, loss in losses.items() if not name.startswith("loss_kd_")}
    sum(labels.values()).backward(retain_graph=True)
    assert all(p.grad is None for p in made.roi_head.parameters())
    sum(losses[name] for name in losses.keys() - labels.keys()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in made.roi_head.parameters())


def test_a_batch_without_regions_trains_too() -> None:
    made = detector()
    made.extensions["Distillation"].queries.slots = type(made.extensions["Distillation"].queries.slots)(min_side=1e6)
    sum(training_losses(made, INPUTS).values()).backward()
    assert all(p.grad is not None for p in made.roi_head.parameters())  # other workers wait for it


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"MODEL__KD__LAYERS": "all"}, 'belongs to no decoder layer: MODEL.KD.LAYERS must be "last", not "all"'),
        ({"MODEL__KD__SLOT_FILTERS": ["unmatched"]}, 'QUERIES "ROIHead" selects before anything is matched'),
        ({"MODEL__KD__NEGATIVES": "Soft"}, 'QUERIES "ROIHead" belong to none'),
        ({"CLASSIFIER__NAME": "CosineTextObjectness", "LOSS__CLASS": "BoxesOnly"}, "beside a sigmoid"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        refuse_bad_combinations(tiny_config("dk_detr_R50", **{**OPTIONS, **options}))


def test_a_head_that_nobody_would_teach_is_refused() -> None:
    cfg = tiny_config("dk_detr_R50", TRAINING_EXTENSIONS=[], MODEL__KD__TERMS=[], **OPTIONS)
    with pytest.raises(ValueError, match='"ROIHead" is taught by "Distillation", which .* lacks'):
        refuse_terms_without_distillation(cfg)
