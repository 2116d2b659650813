"""A detector with each choice of negatives: it is built by name, trains, and detects without any."""

from pathlib import Path
from typing import Any

import pytest
from detectron2.config import CfgNode

from dk_detr.criterion import NEGATIVES, All, Federated, Focal, OtherClusters
from dk_detr.engine.setup import for_inference
from dk_detr.meta_arch import DETR, build
from dk_detr.meta_arch.combinations import refuse_bad_combinations
from tests.model_fixtures import (
    TwoConvolutions,
    configured_detector,
    fixed_seed,
    tiny_config,
    tiny_input,
    tiny_vocabulary,
    training_losses,
)

DK_DINO = "dk_dino_R50"  # with proposals, denoising and distillation
BATCH = [tiny_input(seed=1, num_objects=1), tiny_input((32, 40), 0, seed=2)]
SMALL = {"LOSS__FEDERATED__NUM_WORDS": 1, "LOSS__CLUSTERS__NUMBER": 1}  # as few negatives as there can be


def detector_of(name: str, **options: Any) -> DETR:
    return configured_detector(DK_DINO, LOSS__NEGATIVES=name, **{**SMALL, **options})


def chosen(detector: DETR) -> Any:
    """The choice in the class loss of detections."""
    (loss,) = (term for term in detector.criterion.terms.values() if isinstance(term, Focal))
    return loss.negatives


@pytest.mark.parametrize("name", NEGATIVES)
def test_a_detector_with_each_choice_trains_every_parameter(name: str) -> None:
    detector = detector_of(name)
    with fixed_seed(7):
        losses = training_losses(detector, BATCH)
    sum(losses.values()).backward()
    grads = {key: parameter.grad for key, parameter in detector.named_parameters()}
    assert not [key for key, grad in grads.items() if grad is None or not grad.isfinite().all()]


@pytest.mark.parametrize("name", ["Federated", "OtherClusters"])
def test_detection_and_denoising_learn_fewer_negatives_and_the_first_stage_as_many(name: str) -> None:
    every, fewer = detector_of("All"), detector_of(name)
    fewer.load_state_dict(every.state_dict())
    losses = []
    for detector in (every, fewer):
        with fixed_seed(7):
            losses.append(training_losses(detector, BATCH))
    less = {key for key in losses[0] if losses[1][key] < losses[0][key]}
    assert less >= {"loss_class", "loss_dn_class"} and "loss_proposal_class" not in less
    assert losses[0]["loss_proposal_class"] == losses[1]["loss_proposal_class"]
    assert isinstance(every.proposal_criterion.terms["class"], Focal)
    assert every.proposal_criterion.terms["class"] == fewer.proposal_criterion.terms["class"] == Focal()


def test_the_choice_has_its_numbers_and_the_words_of_training_from_the_config() -> None:
    assert chosen(configured_detector(DK_DINO)) == All()
    made = chosen(detector_of("Federated", LOSS__FEDERATED__NUM_WORDS=2))
    assert isinstance(made, Federated) and (made.num_words, len(made.weights)) == (2, 3)
    made = chosen(detector_of("OtherClusters", LOSS__CLUSTERS__NUMBER=2))
    assert isinstance(made, OtherClusters) and (made.num_clusters, len(made.clusters)) == (2, 3)


def test_more_clusters_than_words_of_training_are_refused() -> None:
    with pytest.raises(ValueError, match=r"CLUSTERS.NUMBER is 4, but there are only 3 words .*MODEL.VOCABULARY.TEST"):
        detector_of("OtherClusters", LOSS__CLUSTERS__NUMBER=4)


@pytest.mark.parametrize(
    ("name", "key"), [("Federated", "FEDERATED.NUM_WORDS"), ("OtherClusters", "CLUSTERS.NUMBER")]
)
def test_a_bad_number_is_refused_before_anything_is_built(name: str, key: str) -> None:
    cfg = tiny_config(DK_DINO, LOSS__NEGATIVES=name, **{f"LOSS__{key.replace('.', '__')}": 0})
    with pytest.raises(ValueError, match=f"MODEL.DETR.LOSS.{key} must be at least 1, got 0"):
        refuse_bad_combinations(cfg)


@pytest.mark.parametrize("name", ["Federated", "OtherClusters"])
def test_a_detector_for_inference_reads_no_counts_and_makes_no_clusters(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def words(cfg: CfgNode) -> Any:
        return tiny_vocabulary().base(), tiny_vocabulary()

    monkeypatch.setattr(build, "vocabularies_from_config", words)
    gone = {"LOSS__FEDERATED__COUNTS": str(tmp_path / "gone.json"), "LOSS__CLUSTERS__NUMBER": 99}
    cfg = tiny_config(DK_DINO, LOSS__NEGATIVES=name, TRAINING_EXTENSIONS=[], **gone)
    with pytest.raises((FileNotFoundError, ValueError), match="gone.json|CLUSTERS.NUMBER is 99"):
        DETR(**build.parts_from_config(cfg, TwoConvolutions()))
    detector = DETR(**build.parts_from_config(for_inference(cfg), TwoConvolutions())).eval()
    assert chosen(detector) == All() and len(detector(BATCH)) == 2
