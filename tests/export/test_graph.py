"""The graph that is exported, in PyTorch: it detects what the detector does."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from dk_detr.export import DetectionGraph
from dk_detr.export.check import compare
from dk_detr.export.exported import Exported
from dk_detr.export.graph import NOTHING
from tests.export_fixtures import graph_of, inputs_of, samples
from tests.model_fixtures import SERIES, tiny_detector
from tests.run_fixtures import REPOSITORY

OPEN = (
    "dk_detr_R50", "dk_detr_mask_R50", "dk_detr_plus_R50", "dk_dino_R50", "dk_adamixer_R50", "vild_R50",
    "vild_text_R50", "vild_image_R50", "vild_ensemble_R50", "soit_R50", "dino_mask_R50_4scale", "adamixer_R50_1x",
)  # fmt: skip


def in_the_place_of(graph: DetectionGraph) -> Exported:
    return Exported(lambda inputs: graph(**inputs), graph)


@pytest.mark.parametrize("padded_side", [0, 64])
@pytest.mark.parametrize("name", SERIES + OPEN)
@torch.no_grad()
def test_the_graph_detects_what_the_detector_does(name: str, padded_side: int) -> None:
    graph = graph_of(name, padded_side, DECODER_LAYERS=2)
    compared = compare(graph.model, in_the_place_of(graph), samples(2))
    assert compared.good, compared.describe()
    assert compared.worst.number > 10


@torch.no_grad()
def test_a_batch_of_two_is_two_batches_of_one() -> None:
    graph = graph_of("dk_detr_mask_R50", DECODER_LAYERS=2)
    both = graph(**inputs_of(graph, samples(2)))
    for image, sample in enumerate(samples(2)):
        for one, of_both in zip(graph(**inputs_of(graph, [sample])), both):
            assert torch.allclose(one[0].float(), of_both[image].float(), atol=1e-4)


@torch.no_grad()
def test_places_that_no_detection_fills_say_so() -> None:
    graph = graph_of("detr_R50")  # a word of each query, where more are asked for
    labels, _, scores = graph(**inputs_of(graph, samples(1)))
    assert labels.shape == scores.shape == (1, graph.model.num_detections)
    filled = scores > 0
    assert filled.sum() == 12 and (labels[~filled] == NOTHING).all() and (labels[filled] >= 0).all()


@torch.no_grad()
def test_permuting_the_words_permutes_the_labels() -> None:
    graph, order = graph_of("dk_detr_R50"), torch.tensor([3, 1, 4, 0, 2])
    inputs = inputs_of(graph, samples(1))
    labels, _, scores = graph(**inputs)
    others, _, same = graph(**{**inputs, "text_embeddings": inputs["text_embeddings"][order]})
    filled = scores > 0
    assert torch.allclose(scores, same, atol=1e-6) and torch.equal(labels[filled], order[others[filled]])


def test_inputs_are_what_the_scores_depend_on() -> None:
    assert graph_of("detr_R50").inputs == ("images", "orig_target_sizes")
    assert graph_of("dk_detr_R50").inputs == ("images", "orig_target_sizes", "text_embeddings")
    for name in ("dk_detr_plus_R50", "vild_ensemble_R50"):
        assert graph_of(name).inputs[2:] == ("text_embeddings", "novel")
    assert DetectionGraph(tiny_detector(), fixed_words=True).inputs == ("images", "orig_target_sizes")


@torch.no_grad()
def test_of_fixed_words_only_those_that_are_asked_for_are_told() -> None:
    model: Any = tiny_detector()
    graph = DetectionGraph(model, fixed_words=True)
    exported, file = in_the_place_of(graph), copy.deepcopy(graph)  # a file has the words of its export
    exported.run = lambda inputs: file(**inputs)
    (everything,) = exported(samples(1))
    names = [model.vocabulary.names[index] for index in everything["instances"].pred_classes]
    exported.set_vocabulary(model.vocabulary.select(["word 3", "word 1"]))
    (asked,) = exported(samples(1))
    told = [exported.vocabulary.names[index] for index in asked["instances"].pred_classes]
    assert told == [name for name in names if name in ("word 1", "word 3")] and told


def test_every_kind_of_detector_is_in_the_list() -> None:
    names = {path.stem.split("_")[0] for path in Path(REPOSITORY / "configs").glob("*_R50*.yaml")}
    assert names <= {name.split("_")[0] for name in SERIES + OPEN}
