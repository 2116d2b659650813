"""Companions: auxiliary queries that say the novel words at inference."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from dk_detr.distillation import refuse_terms_without_distillation
from dk_detr.engine.checkpoint import StrictCheckpointer
from dk_detr.meta_arch import DETR
from dk_detr.meta_arch.combinations import refuse_bad_combinations
from dk_detr.modeling import CONTENTS, Companions, Heads
from dk_detr.structures import Vocabulary
from tests.model_fixtures import QUERIES, configured_detector, fixed_seed, tiny_config, tiny_input, training_losses

INPUTS = [tiny_input(seed=1), tiny_input((32, 40), 3, seed=2)]


def detector(queries: str = "Companions", content: str = "Learned") -> DETR:
    return configured_detector("dk_detr_R50", MODEL__KD__QUERIES=queries, MODEL__KD__CONTENT=content)


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


def test_companions_say_the_novel_words_and_nothing_else() -> None:
    made = detector()
    before = scores(made)
    with torch.no_grad():
        made.companions.content.weight.normal_(generator=torch.Generator().manual_seed(0))
    after = scores(made)
    assert torch.equal(before[..., ~made.novel], after[..., ~made.novel])
    assert (before[..., made.novel] != after[..., made.novel]).all()


def test_base_words_and_boxes_are_those_of_the_detection_queries() -> None:
    made = detector()
    made.num_detections = QUERIES * len(made.vocabulary)
    found = made(INPUTS)
    made.companions = None
    for one, other in zip(found, made(INPUTS)):
        ours, theirs = (answer["instances"] for answer in (one, other))
        base = [~made.novel[each.pred_classes] for each in (ours, theirs)]
        for field in ("scores", "pred_classes"):
            assert_close(getattr(ours, field)[base[0]], getattr(theirs, field)[base[1]])
        assert_close(ours.pred_boxes.tensor[base[0]], theirs.pred_boxes.tensor[base[1]])


def test_nothing_is_decoded_beside_the_detection_queries_where_all_words_were_trained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = detector()
    made.set_vocabulary(made.train_vocabulary)
    monkeypatch.setattr(Companions, "forward", lambda *_: pytest.fail("nobody asks companions"))
    made(INPUTS)


def test_words_are_novel_if_they_were_not_trained_whatever_the_vocabulary_says() -> None:
    made = detector()
    wanted = scores(made)
    words = made.vocabulary
    made.set_vocabulary(Vocabulary(words.names, words.embeddings, torch.zeros_like(words.novel), words.provenance))
    assert torch.equal(scores(made), wanted)


@pytest.mark.parametrize("content", CONTENTS)
def test_every_parameter_of_theirs_learns_from_the_teacher(content: str) -> None:
    made = detector(content=content)
    losses = training_losses(made, INPUTS)
    sum(loss for name, loss in losses.items() if name.startswith("loss_kd_")).backward()
    gradients = {name: p.grad for name, p in made.companions.named_parameters()}
    assert len(gradients) == (1 if content == "Learned" else 9)
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients.values())


def test_contents_of_regions_without_companions_are_refused() -> None:
    cfg = tiny_config("dk_detr_R50", MODEL__KD__CONTENT="Regions")
    with pytest.raises(ValueError, match='CONTENT "Regions" is for MODEL.KD.QUERIES "Companions", got "Auxiliary"'):
        refuse_bad_combinations(cfg)


def test_they_are_trained_as_auxiliary_queries_are() -> None:
    made, published = detector(), detector("Auxiliary")
    state = {
        name.replace("companions.", "extensions.Distillation.queries."): value
        for name, value in made.state_dict().items()
    }
    published.load_state_dict(state)
    with fixed_seed(7):
        ours = training_losses(made, INPUTS)
    with fixed_seed(7):
        theirs = training_losses(published, INPUTS)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def content(made: DETR) -> Tensor:
    return (made.companions or made.extensions["Distillation"].queries).content.weight


@pytest.mark.parametrize(("saved", "wanted"), [("Auxiliary", "Companions"), ("Companions", "Auxiliary")])
def test_auxiliary_queries_and_companions_load_one_anothers_weights(saved: str, wanted: str, tmp_path: Path) -> None:
    trained, made = detector(saved), detector(wanted)
    with torch.no_grad():
        content(trained).add_(1.0)
    StrictCheckpointer(trained, str(tmp_path)).save("model")
    StrictCheckpointer(made).load(str(tmp_path / "model.pth"))
    assert torch.equal(content(made), content(trained))


def test_companions_that_nobody_would_teach_are_refused() -> None:
    cfg = tiny_config("dk_detr_R50", TRAINING_EXTENSIONS=[])
    cfg.MODEL.KD.QUERIES, cfg.MODEL.KD.TERMS = "Companions", []
    with pytest.raises(ValueError, match='"Companions" are taught by "Distillation", which .* lacks'):
        refuse_terms_without_distillation(cfg)
