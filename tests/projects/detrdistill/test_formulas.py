"""Each formula against a plain transcription of it, or against numbers computed by hand."""

import math
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from torch.nn import functional as F

from dk_detr.layers import generalized_iou, iou, to_xyxy
from dk_detr.structures import Assignment, Predictions
from projects.DETRDistill.detrdistill.features import Level
from projects.DETRDistill.detrdistill.points import random_queries
from projects.DETRDistill.detrdistill.soft import Comparison, class_cost, class_loss, match
from projects.DETRDistill.detrdistill.stages import stage_pairs
from projects.DETRDistill.detrdistill.terms.fgd import GlobalContext, attention_of, foreground_weights
from projects.DETRDistill.detrdistill.terms.query_prior_assignment import of_layers
from projects.DETRDistill.detrdistill.terms.target_aware_features import (
    LEAST,
    counted_scores,
    over_the_largest,
    qualities,
    query_weights,
    release_mask,
)
from tests.model_fixtures import random, targets_of
from tests.projects.detrdistill.distill_fixtures import (
    INPUTS,
    VARIANTS,
    detector,
    losses_of,
    same_weights,
    step_of,
    taught,
    teach,
)


@pytest.mark.parametrize(
    ("student", "teacher", "pairs"),
    [
        (3, 6, [(0, 0), (0, 1), (1, 2), (1, 3), (2, 4), (2, 5)]),
        (6, 6, [(k, k) for k in range(6)]),
        (2, 3, [(0, 0), (1, 1), (1, 2)]),
        (4, 6, [(0, 0), (1, 1), (1, 2), (2, 3), (3, 4), (3, 5)]),
        (6, 3, [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (5, 2)]),
        (1, 4, [(0, 0), (0, 1), (0, 2), (0, 3)]),
    ],
)
def test_layers_are_mapped_as_in_figure_5(student: int, teacher: int, pairs: list[tuple[int, int]]) -> None:
    made = stage_pairs(student, teacher)
    assert list(zip(made.student, made.teacher)) == pairs
    for layer in range(student):
        shares = [weight for k, weight in zip(made.student, made.weight) if k == layer]
        assert sum(shares) == pytest.approx(1.0)
    assert made.last_of_each == tuple(max(t for k, t in pairs if k == layer) for layer in range(student))
    assert made.last_of_each[-1] == teacher - 1


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_the_cost_of_classes_is_the_loss_of_every_pair(activation: str) -> None:
    ours, theirs = random(2, 2, 4, 5), random(2, 2, 3, 5, seed=1)
    cost = class_cost(ours, theirs, activation)
    for i in range(4):
        for j in range(3):
            loss = class_loss(ours[:, :, i], theirs[:, :, j], activation)
            if activation == "softmax":  # the cost leaves out what the teacher's query alone decides
                p = theirs[:, :, j].softmax(-1)
                loss = loss - (p * p.log()).sum(-1)
            torch.testing.assert_close(cost[:, :, i, j], loss)


def test_binary_cross_entropy_with_soft_labels_by_hand() -> None:
    loss = class_loss(torch.tensor([[0.0, 2.0]]), torch.tensor([[0.0, -1.0]]), "sigmoid")
    p = 1 / (1 + math.e)
    second = -p * math.log(1 / (1 + math.exp(-2))) - (1 - p) * math.log(1 - 1 / (1 + math.exp(-2)))
    assert loss.item() == pytest.approx(math.log(2) + second, rel=1e-5)


def boxes(*shape: int, seed: int = 0) -> torch.Tensor:
    return random(*shape, 4, seed=seed).sigmoid() * 0.5 + 0.2


def test_the_cost_of_boxes_is_that_of_every_pair() -> None:
    ours = Predictions(random(1, 2, 3, 4), boxes(1, 2, 3))
    theirs = Predictions(random(1, 2, 5, 4, seed=1), boxes(1, 2, 5, seed=1))
    cost = Comparison("sigmoid", lambda b: b, {"CLASS": 1.0, "L1": 5.0, "GIOU": 2.0}).cost(ours, theirs, of_class=False)
    for i in range(3):
        for j in range(5):
            a, b = ours.boxes[:, :, i], theirs.boxes[:, :, j]
            wanted = 5 * (a - b).abs().sum(-1) - 2 * generalized_iou(to_xyxy(a), to_xyxy(b))
            torch.testing.assert_close(cost[:, :, i, j], wanted)


def test_a_matching_takes_what_is_free_and_drops_the_least_certain() -> None:
    cost = torch.tensor([[[[1.0, 5.0, 0.0], [5.0, 1.0, 0.0], [0.0, 0.0, 0.0]]]])
    free, wanted = torch.tensor([[[True, True, False]]]), torch.ones(1, 1, 3, dtype=torch.bool)
    pairs = match(cost, free, wanted, torch.tensor([[[0.9, 0.8, 0.1]]]))
    assert pairs.ours.tolist() == [0, 1] and pairs.theirs.tolist() == [0, 1]
    pairs = match(cost, free, torch.zeros_like(wanted), torch.zeros(1, 1, 3))
    assert len(pairs.ours) == 0


def test_equation_9_query_by_query_is_the_map_of_weights() -> None:
    theirs, ours, queries, quality = (
        random(2, 8, 3, 4),
        random(2, 8, 3, 4, seed=1),
        random(2, 5, 8, seed=2),
        random(2, 5),
    )
    quality = quality.abs()
    map_form = Level(ours, theirs, torch.ones(2, 3, 4)).weighted_squares(query_weights(theirs, queries, quality))
    loop = torch.zeros(2)
    for i in range(5):
        mask = F.cosine_similarity(queries[:, i, :, None, None], theirs, dim=1).clamp(min=0)
        loop += quality[:, i] / (5 * 8 * 12) * (mask[:, None] * (theirs - ours)).square().sum((1, 2, 3))
    torch.testing.assert_close(map_form, loop.mean(), rtol=1e-6, atol=1e-8)


def test_quality_is_the_best_of_score_and_overlap() -> None:
    targets = targets_of(([1, 0], boxes(2).tolist()), ([2], boxes(1, seed=3).tolist()))
    predictions = Predictions(random(2, 2, 4, 3), boxes(2, 2, 4, seed=5))
    found = qualities(predictions, targets, "sigmoid", 0.25)
    for layer in range(2):
        for image in range(2):
            for query in range(4):
                values = []
                for label, box in zip(targets.labels[image], targets.boxes[image]):
                    score = predictions.logits[layer, image, query, label].sigmoid()
                    overlap = iou(to_xyxy(predictions.boxes[layer, image, query]), to_xyxy(box))
                    values.append((score**0.25 * overlap**0.75).item())
                assert found[layer, image, query].item() == pytest.approx(max(values), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_what_fills_up_a_batch_is_no_object(gamma: float) -> None:
    """An image of one object beside one of three: the others are as if they were not there."""
    predictions = Predictions(random(1, 2, 4, 3), boxes(1, 2, 4))
    one, three = ([2], boxes(1).tolist()), ([1, 0, 2], boxes(3, seed=1).tolist())
    together = qualities(predictions, targets_of(one, three), "sigmoid", gamma)
    first = Predictions(predictions.logits[:, :1], predictions.boxes[:, :1])
    torch.testing.assert_close(together[:, :1], qualities(first, targets_of(one), "sigmoid", gamma))
    if gamma == 1:
        torch.testing.assert_close(together[:, 0], predictions.logits[:, 0, :, 2].sigmoid())


def test_costs_are_in_full_precision_and_without_a_gradient() -> None:
    ours = Predictions(4 * random(1, 2, 3, 200).requires_grad_(), boxes(1, 2, 3).requires_grad_())
    theirs = Predictions(4 * random(1, 2, 5, 200, seed=1), boxes(1, 2, 5, seed=1))
    comparison = Comparison("sigmoid", lambda b: b, {"CLASS": 1.0, "L1": 5.0, "GIOU": 2.0})
    with torch.autocast("cpu", torch.bfloat16):
        half = comparison.cost(ours, theirs)
    assert not half.requires_grad and torch.equal(half, comparison.cost(ours, theirs))


def test_images_without_objects_have_no_quality() -> None:
    predictions = Predictions(random(1, 2, 4, 3), boxes(1, 2, 4))
    one = qualities(predictions, targets_of(([], []), ([2], boxes(1).tolist())), "sigmoid", 0.5)
    assert not one[:, 0].any() and one[:, 1].any()
    assert not qualities(predictions, targets_of(([], []), ([], [])), "sigmoid", 0.5).any()


def test_the_release_counts_a_query_as_often_as_it_is_among_the_best() -> None:
    logits = torch.tensor([[[[3.0, 2.0, -9.0], [1.0, -9.0, -9.0]]]])
    predictions = Predictions(logits, boxes(1, 1, 2))
    none = targets_of(([], []))
    counted = counted_scores(predictions, none, "sigmoid", number=3)
    sigmoid = torch.tensor([3.0, 2.0, 1.0]).sigmoid()
    torch.testing.assert_close(counted[0, 0], torch.stack([sigmoid[0] + sigmoid[1], sigmoid[2]]))
    with_object = counted_scores(
        predictions, targets_of(([0], predictions.boxes[0, 0, :1].tolist())), "sigmoid", number=3
    )
    assert with_object[0, 0, 0].item() == pytest.approx(counted[0, 0, 0].item(), rel=1e-4)
    assert with_object[0, 0, 1] < counted[0, 0, 1]


def test_a_mask_on_both_sides_is_its_square_on_the_difference() -> None:
    theirs, ours = random(2, 8, 3, 4), random(2, 8, 3, 4, seed=1)
    queries, counted = random(2, 5, 8, seed=2), random(2, 5, seed=3).abs()
    mask = release_mask(theirs, queries, counted)
    assert mask.amax((1, 2)).tolist() == [1.0, 1.0] and mask.min() > 0
    seen = F.cosine_similarity(queries[:, :, :, None, None], theirs[:, None], dim=2) * counted[..., None, None]
    plain = seen.sum(1).clamp(min=LEAST)
    torch.testing.assert_close(mask, plain / plain.amax((1, 2), keepdim=True))
    both = F.mse_loss(mask[:, None] * ours, mask[:, None] * theirs)
    torch.testing.assert_close(both, Level(ours, theirs, torch.ones(2, 3, 4)).weighted_squares(mask.square()))


def test_nothing_divided_by_the_largest_stays_nothing() -> None:
    assert not over_the_largest(torch.zeros(2, 3, 4)).any()


def test_losses_do_not_change_with_the_order_of_the_students_queries() -> None:
    student = detector("dab")
    teach(student, detector("dab", DECODER_LAYERS=2), "hungarian_logits", "contrastive_queries")
    step = step_of(student)
    turned = torch.arange(12).roll(5)
    predictions = dict(step.outputs.predictions)
    detections = predictions["detection"]
    predictions["detection"] = Predictions(detections.logits[:, :, turned], detections.boxes[:, :, turned])
    trace = replace(step.outputs.trace, hidden_states=step.outputs.trace.hidden_states[:, :, turned])
    other = replace(step, outputs=replace(step.outputs, predictions=predictions, trace=trace))
    for term in student.extensions["DETRDistill"].terms.values():
        for name, loss in term(step).items():
            torch.testing.assert_close(term(other)[name], loss, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", ["paper", "release"])
def test_a_batch_twice_as_large_with_copies_has_the_same_losses(variant: str) -> None:
    student = detector("deformable")
    teach(
        student, detector("deformable"), "hungarian_logits", "target_aware_features", "query_prior_assignment",
        "fitnet", "fgd", "kd_detr", KD_DETR__POINTS=["specific"], **VARIANTS[variant],
    )  # fmt: skip
    one, two = taught(losses_of(student)), taught(losses_of(student, [*INPUTS, *INPUTS]))
    for name, loss in one.items():
        torch.testing.assert_close(two[name], loss, rtol=1e-4, atol=1e-5, msg=name)


def test_a_student_like_its_teacher_is_assigned_as_its_teacher() -> None:
    losses = {}
    for variant in ("paper", "release"):
        student, teacher = detector("dab"), detector("dab")
        same_weights(student, teacher)
        teach(student, teacher, "query_prior_assignment", **VARIANTS[variant])
        losses[variant] = taught(losses_of(student))
    for name, loss in losses["paper"].items():
        torch.testing.assert_close(losses["release"][name], loss)


def test_only_the_papers_form_keeps_to_the_teachers_assignment() -> None:
    student, teacher = detector("dab"), detector("dab", DECODER_LAYERS=2)
    teach(student, teacher, "query_prior_assignment")
    step = step_of(student)
    (term,) = student.extensions["DETRDistill"].terms.values()
    turned = step.outputs.predictions["of_teacher"]
    turned = Predictions(turned.logits.roll(3, 2), turned.boxes.roll(3, 2))
    asked = replace(step, outputs=replace(step.outputs, predictions={"of_teacher": turned}))
    used = {}
    for variant in ("paper", "release"):
        term.variant = variant
        with patch.object(step.criterion, "losses", return_value={}) as losses:
            term(asked)
        used[variant] = losses.call_args.args[2]
    wanted = of_layers(step.assignment, step.stages.last_of_each)
    assert torch.equal(used["paper"].query, wanted.query)
    assert not torch.equal(used["release"].query, wanted.query)


def test_an_assignment_of_other_layers() -> None:
    columns = torch.tensor([[0, 0, 1, 1], [0, 1, 0, 1], [5, 6, 7, 8], [0, 0, 0, 0]])
    made = of_layers(Assignment(*columns), (1, 1, 0))
    assert made.layer.tolist() == [0, 0, 1, 1, 2, 2] and made.query.tolist() == [7, 8, 7, 8, 5, 6]


def test_the_divergence_of_the_same_points_by_hand() -> None:
    student = detector("dab")
    teach(student, detector("dab", DECODER_LAYERS=2), "kd_detr", KD_DETR__POINTS=["specific"])
    step = step_of(student)
    (term,) = student.extensions["DETRDistill"].terms.values()
    ours, theirs = step.in_pairs("of_teacher")
    wanted = torch.zeros(())
    for pair in range(3):
        for image in range(2):
            certain = theirs.logits[pair, image].sigmoid().amax(-1)
            for query in range(12):
                t = (theirs.logits[pair, image, query] / 10).softmax(-1)
                s = (ours.logits[pair, image, query] / 10).softmax(-1)
                divergence = (t * (t / s).log()).sum() * 100
                wanted = wanted + step.stages.weight[pair] * certain[query] / certain.sum() * divergence / 2
    torch.testing.assert_close(term(step)["specific_class"], 2 * wanted, rtol=1e-3, atol=1e-6)


def test_the_order_of_the_points_does_not_matter() -> None:
    student = detector("dab")
    teach(student, detector("dab", DECODER_LAYERS=2), "kd_detr", KD_DETR__POINTS=["specific"])
    step, turned = step_of(student), torch.arange(12).roll(5)
    (term,) = student.extensions["DETRDistill"].terms.values()
    ours, theirs = step.outputs.predictions["of_teacher"], step.teacher.detections
    ours, theirs = (Predictions(each.logits[:, :, turned], each.boxes[:, :, turned]) for each in (ours, theirs))
    teacher = replace(step.teacher, predictions={"detection": theirs})
    other = replace(step, teacher=teacher, outputs=replace(step.outputs, predictions={"of_teacher": ours}))
    for name, loss in term(step).items():
        torch.testing.assert_close(term(other)[name], loss)


@pytest.mark.parametrize("changed", [{"KD_DETR__CLASSES": "sigmoid"}, {"KD_DETR__LAYERS": "last"}], ids=str)
def test_other_forms_of_kd_detr_are_zero_for_the_last_layer_of_a_copy(changed: dict[str, str]) -> None:
    one = {"DECODER_LAYERS": 1, "ENCODER_LAYERS": 1}
    student, teacher = detector("dino", **one), detector("dino", **one)
    same_weights(student, teacher)
    teach(student, teacher, "kd_detr", KD_DETR__POINTS=["specific"], **changed)
    losses = taught(losses_of(student))
    assert losses["kd_detr_specific_l1"] < 1e-5
    if "KD_DETR__LAYERS" in changed:
        assert losses["kd_detr_specific_class"] < 1e-5
    else:  # the entropy of the teacher is left
        assert losses["kd_detr_specific_class"] > 0.01


def test_random_queries_that_a_box_says_are_as_the_box_says() -> None:
    model = detector("dk_detr_R50")
    with torch.no_grad():
        group = model.queries(model.encoder(model.extract_features(model.preprocess(INPUTS)))).group
        made = random_queries(group, model.queries)
        torch.testing.assert_close(made.content, model.queries.content_of(made.reference, torch.float32))


def test_random_queries_are_as_wide_as_the_detectors_own() -> None:
    model = detector("deformable")
    with torch.no_grad():
        group = model.queries(model.encoder(model.extract_features(model.preprocess(INPUTS)))).group
        made = random_queries(group, model.queries)
    assert made.content.std().item() == pytest.approx(group.content.std().item(), rel=0.2)
    torch.testing.assert_close(made.reference, model.queries.points_of(made.position))
    assert not torch.equal(made.content[0], made.content[1])


def test_attention_adds_up_to_the_cells_and_the_channels() -> None:
    valid = torch.ones(2, 3, 4)
    valid[1, :, 2:] = 0
    maps = random(2, 8, 3, 4)
    cells, channels = attention_of(maps, valid, 0.5)
    torch.testing.assert_close(cells.sum((1, 2)), torch.tensor([12.0, 6.0]))
    torch.testing.assert_close(channels.sum(1), torch.tensor([8.0, 8.0]))
    assert not cells[1, :, 2:].any()
    wanted = 12 * (maps[0].abs().mean(0) / 0.5).flatten().softmax(0).view(3, 4)
    torch.testing.assert_close(cells[0], wanted)


def test_each_object_weighs_the_same_and_the_smaller_one_where_they_overlap() -> None:
    large, small = [0.5, 0.5, 1.0, 1.0], [0.125, 0.125, 0.25, 0.25]
    weights = foreground_weights(targets_of(([0, 0], [large, small]), ([], [])), torch.ones(2, 4, 4))
    assert weights[0, 3, 3].item() == pytest.approx(1 / 25) and weights[0, 0, 0].item() == pytest.approx(1 / 4)
    assert not weights[1].any()


def test_context_starts_as_nothing_and_does_not_see_padding() -> None:
    context, maps, valid = GlobalContext(8), random(1, 8, 3, 4), torch.ones(1, 3, 4)
    valid[..., 3] = 0
    assert torch.equal(context(maps, valid), maps)
    torch.nn.init.normal_(context.change[-1].weight)
    other = maps.clone()
    other[..., 3] = 7.0
    torch.testing.assert_close(context(maps, valid)[..., :3], context(other, valid)[..., :3])


def test_as_many_cells_are_hidden_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    student = detector("deformable")
    extension = teach(student, detector("deformable"), "mgd", MGD__MASKED=0.75)
    seen = []
    extension.terms["mgd"].generators[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    losses_of(student)
    hidden = (seen[0] == 0).all(1).float().mean().item()
    assert 0.55 < hidden < 0.95


def test_partners_are_found_among_all_by_hand() -> None:
    student = detector("dab")
    extension = teach(student, detector("dab"), "contrastive_queries")
    term = extension.terms["contrastive_queries"].eval()
    ours, theirs = random(4, 32), random(4, 32, seed=1)
    a, b = F.normalize(term.ours(ours), dim=1), F.normalize(term.theirs(theirs), dim=1)
    likeness = b @ a.T / 0.07
    wanted = -likeness.log_softmax(1).diagonal().mean()
    torch.testing.assert_close(term._of(ours, theirs), wanted)
    for few in (0, 1):
        assert term.train()._of(ours[:few], theirs[:few]) == 0
