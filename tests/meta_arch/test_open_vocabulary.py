"""Words: exchangeable after training, free of the checkpoint, and the novel ones never in training."""

import pytest
import torch
from torch.nn import functional as F

from dk_detr.meta_arch import DETR
from dk_detr.modeling import CLASSIFIERS
from dk_detr.structures import Vocabulary
from tests.model_fixtures import (
    WIDTH,
    random,
    teaching,
    tiny_detector,
    tiny_distillation,
    tiny_input,
    tiny_vocabulary,
    training_losses,
)

INPUTS = [tiny_input(seed=1), tiny_input(seed=2)]


def words(count: int, width: int = WIDTH) -> Vocabulary:
    names = tuple(f"thing {i}" for i in range(count))
    return Vocabulary(names, F.normalize(random(count, width, seed=8), dim=1), torch.zeros(count, dtype=torch.bool))


each_classifier = pytest.mark.parametrize("classifier", CLASSIFIERS)
of_a_sigmoid = pytest.mark.parametrize("classifier", ["CosineText", "Linear"])


def in_doubt(classifier: str) -> DETR:
    """A detector whose temperature lets no two scores round to 1."""
    detector = tiny_detector(classifier=classifier)
    detector.classifier.temperature = 0.5
    return detector


def detections(detector) -> list[tuple[str, float, list[float]]]:
    """(word, score, box) of the first image."""
    found = detector(INPUTS[:1])[0]["instances"]
    labels = [detector.vocabulary.names[i] for i in found.pred_classes.tolist()]
    return list(zip(labels, found.scores.tolist(), found.pred_boxes.tensor.tolist()))


@each_classifier
def test_permuting_the_vocabulary_permutes_the_logits(classifier: str) -> None:
    """Same words, scores and boxes; only the numbers of the classes are others."""
    detector = in_doubt(classifier)
    vocabulary = detector.vocabulary
    before = detections(detector)
    detector.set_vocabulary(vocabulary.select([vocabulary.names[i] for i in (3, 0, 4, 1, 2)]))
    after = detections(detector)
    assert len({word for word, _, _ in before}) > 1
    for (word, score, box), (same_word, same_score, same_box) in zip(before, after):
        assert word == same_word
        assert score == pytest.approx(same_score, abs=1e-5)
        assert box == pytest.approx(same_box, abs=1e-3)


@of_a_sigmoid
def test_a_word_scores_the_same_whatever_the_other_words_are(classifier: str) -> None:
    detector = tiny_detector(classifier=classifier)
    vocabulary = detector.vocabulary
    chosen, _, _ = detections(detector)[0]
    before = [score for word, score, _ in detections(detector) if word == chosen]
    detector.set_vocabulary(vocabulary.select([chosen]))
    alone = [score for _, score, _ in detections(detector)]
    assert before and alone[: len(before)] == pytest.approx(before, abs=1e-5)


def test_after_training_the_detector_takes_any_words_of_its_text_encoder() -> None:
    detector = tiny_detector()
    for count in (1, 2, 9):
        detector.set_vocabulary(words(count))
        assert len(detector.vocabulary) == count
        assert {word for word, _, _ in detections(detector)} <= set(words(count).names)


def test_words_of_another_text_encoder_are_refused() -> None:
    detector = tiny_detector()
    with pytest.raises(ValueError, match="width 16; the vocabulary .*width 8.* another text encoder"):
        detector.set_vocabulary(words(3, width=8))
    assert detector.vocabulary.names == tiny_vocabulary().names


def test_a_closed_detector_refuses_words_that_it_was_not_built_for() -> None:
    detector = tiny_detector(classifier="Linear")
    for other in (tiny_vocabulary(), words(5, width=5), words(9)):
        with pytest.raises(ValueError, match=r'knows the 5 words of its training .*"Linear".*"CosineText"'):
            detector.set_vocabulary(other)
    assert detector.vocabulary.names == tiny_vocabulary().names


def test_a_closed_detector_never_trains_its_novel_words() -> None:
    detector = tiny_detector(classifier="Linear")
    sum(training_losses(detector, INPUTS).values()).backward()
    for projection in detector.classifier.projections:
        learnt = projection.weight.grad.any(1)
        assert learnt.tolist() == [not novel for novel in tiny_vocabulary().novel.tolist()]


def test_novel_is_what_was_not_trained_however_it_is_spelt_and_wherever_it_stands() -> None:
    detector = tiny_detector()
    assert detector.novel.tolist() == [False, True, False, False, True]
    names = ("gnu", "word_3", "Word 0", "word 1")
    detector.set_vocabulary(Vocabulary(names, words(4).embeddings, torch.tensor([False, True, False, False])))
    assert detector.novel.tolist() == [True, False, False, True]


def test_the_ensemble_exchanges_its_projections_for_words_that_become_novel() -> None:
    """The last word, once trained and once under a name of its own: by the formula."""
    detector = in_doubt("CosineTextEnsemble")
    given: list[torch.Tensor] = []
    detector.decoder.register_forward_hook(lambda module, _, trace: given.append(trace.hidden_states[-1]))
    for last, home in (("word 3", 2 / 3), ("gnu", 1 / 3)):
        names = ("word 0", "word 1", last)
        detector.set_vocabulary(Vocabulary(names, words(3).embeddings[[2, 1, 0]], torch.zeros(3, dtype=torch.bool)))
        found = [score for word, score, _ in detections(detector) if word == last]
        classifier, hidden = detector.classifier, given[-1]
        p = classifier.score(classifier.project(hidden, -1), detector.text).softmax(-1)[..., 2]
        image = F.normalize(classifier.image_projections[-1](hidden), dim=-1)
        q = (image @ detector.text.T / classifier.temperature).softmax(-1)[..., 2]
        by_hand = (p**home * q ** (1 - home)).flatten().sort(descending=True).values
        assert found and found == pytest.approx(by_hand[: len(found)].tolist(), rel=1e-4)


def test_novel_names_never_enter_the_training_loss() -> None:
    vocabulary = tiny_vocabulary()
    other = torch.where(vocabulary.novel[:, None], F.normalize(random(5, WIDTH, seed=7), dim=1), vocabulary.embeddings)
    changed = Vocabulary(("word 0", "gnu", "word 2", "word 3", "emu"), other, vocabulary.novel)
    without = vocabulary.base()
    first = training_losses(tiny_detector(tiny_distillation()), INPUTS)
    for words_ in (changed, without):
        losses = training_losses(tiny_detector(tiny_distillation(), words_), INPUTS)
        assert all(torch.equal(first[name], loss) for name, loss in losses.items())


@each_classifier
def test_the_training_logits_have_a_column_for_each_base_word_and_no_other(classifier: str) -> None:
    detector, columns = tiny_detector(teaching(classifier), classifier=classifier), []
    detector.classifier.register_forward_hook(lambda module, given, logits: columns.append(logits.shape[-1]))
    training_losses(detector, INPUTS)
    assert columns == [3 + (detector.classifier.activation == "softmax")]  # which has one of no object
    assert torch.equal(detector.train_text, detector.vocabulary.embeddings[[0, 2, 3]])


def test_new_words_do_not_change_what_is_trained() -> None:
    detector = tiny_detector(tiny_distillation())
    before = training_losses(detector, INPUTS)
    detector.set_vocabulary(words(9))
    for name, loss in training_losses(detector, INPUTS).items():
        assert torch.equal(before[name], loss)


def test_a_checkpoint_holds_no_words_and_fits_a_detector_of_any() -> None:
    trained, other = tiny_detector(), tiny_detector(vocabulary=words(9))
    assert not [key for key in trained.state_dict() if "text" in key or "vocabulary" in key]
    torch.nn.init.zeros_(other.encoder.level_embed)
    other.load_state_dict(trained.state_dict())
    other.set_vocabulary(tiny_vocabulary())
    assert detections(other) == detections(trained)
