"""The DETR series, each detector put together from its file in configs/: trained, detecting, alone and in company.

D layers, B images, Q queries, K words.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from detectron2.structures import Instances
from torch import Tensor

from dk_detr.extensions import ContrastiveDenoising, Denoising, DenoisingPlan
from dk_detr.meta_arch import DETR
from dk_detr.structures import QuerySet, Targets, Trace
from tests.model_fixtures import (
    QUERIES,
    SERIES,
    closed_vocabulary,
    configured_detector,
    fixed_seed,
    tiny_input,
    tiny_vocabulary,
    training_losses,
)

DK_DINO = "dk_dino_R50"
DENOISING = ("dn_detr_R50", "dn_deformable_detr_R50", "dino_R50_4scale", DK_DINO)
OPEN_DINO = {"CLASSIFIER__NAME": "CosineText", "FIRST_STAGE": "ClassAgnostic"}
SIZES = [(40, 48), (64, 33), (29, 56)]
BATCHES = {  # of so many objects
    "equal": [(2, (40, 48)), (2, (40, 48))],
    "unequal": [(1, (40, 48)), (3, (32, 40))],
    "one without": [(0, (40, 48)), (2, (64, 33))],
    "none": [(0, (40, 48)), (0, (40, 48))],
}
each_detector = pytest.mark.parametrize("name", [*SERIES, DK_DINO])
each_denoising = pytest.mark.parametrize("name", DENOISING)


def batch(kind: str) -> list[dict[str, Any]]:
    return [tiny_input(size, number, seed=seed) for seed, (number, size) in enumerate(BATCHES[kind])]


def step(detector: DETR, inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
    """The losses of a step with the same dice each time."""
    with fixed_seed(7):
        return training_losses(detector, inputs)


def stages(name: str) -> set[str]:
    """Prefixes of the losses of a detector."""
    two_stages = name in ("deformable_detr_two_stage_R50", "dino_R50_4scale", DK_DINO)
    return {"", *(["proposal_"] if two_stages else []), *(["dn_"] if name in DENOISING else [])}


PARTS = {  # queries, position, self- and cross-attention, refinement, extension, classifier
    "detr_R50": "Learned Given DenseSelf DenseCross Direct - LinearBackground",
    "conditional_detr_R50": "Learned ConditionalSine ConditionalSelf ConditionalCross FromReference - Linear",
    "deformable_detr_R50": "Learned Given DenseSelf DeformableCross FromReference - Linear",
    "deformable_detr_refine_R50": "Learned Given DenseSelf DeformableCross Iterative - Linear",
    "deformable_detr_two_stage_R50": "Proposals Given DenseSelf DeformableCross Iterative - Linear",
    "dab_detr_R50": "Anchors ModulatedSineAnchors ConditionalSelf ConditionalCross LookForwardTwice - Linear",
    "dn_detr_R50": "Anchors ModulatedSineAnchors ConditionalSelf ConditionalCross LookForwardTwice Denoising Linear",
    "dab_deformable_detr_R50": "Anchors ScaledSineAnchors DenseSelf DeformableCross Iterative - Linear",
    "dn_deformable_detr_R50": "Anchors ScaledSineAnchors DenseSelf DeformableCross Iterative Denoising Linear",
    "dino_R50_4scale": "Mixed SineAnchors DenseSelf DeformableCross LookForwardTwice ContrastiveDenoising Linear",
    DK_DINO: "Mixed SineAnchors DenseSelf DeformableCross LookForwardTwice ContrastiveDenoising CosineText",
}


@each_detector
def test_a_detector_is_these_parts(name: str) -> None:
    detector = configured_detector(name)
    decoder = detector.decoder
    first, *others = decoder.layers
    parts = [detector.queries, decoder.positions, others[0].self_attention, others[0].cross_attention]
    parts += [decoder.refinement, next(iter(detector.extensions.values()), None), detector.classifier]
    assert " ".join("-" if part is None else type(part).__name__ for part in parts) == PARTS[name]
    plain, conditional = type(others[0].cross_attention).__name__, "ConditionalCross"
    assert type(first.cross_attention).__name__ == ("First" if plain == conditional else "") + plain
    tokens = "DeformableTokens" if plain == "DeformableCross" else "DenseTokens"
    assert {type(layer.attention).__name__ for layer in detector.encoder.layers} == {tokens}


# ---- training ----


@pytest.mark.parametrize("kind", BATCHES)
@each_detector
def test_every_detector_trains_every_parameter_on_every_batch(name: str, kind: str) -> None:
    """A gradient on each, be it zero: DDP waits for those that get none."""
    detector = configured_detector(name)
    losses = step(detector, batch(kind))
    assert all(loss.shape == () and math.isfinite(loss.item()) for loss in losses.values())
    sum(losses.values()).backward()
    grads = {name: parameter.grad for name, parameter in detector.named_parameters()}
    assert not [name for name, grad in grads.items() if grad is None or not grad.isfinite().all()]
    detection = {f"loss_{stage}{term}" for stage in stages(name) for term in ("class", "l1", "giou")}
    assert {loss for loss in losses if "_kd_" not in loss} == detection
    assert any("_kd_" in loss for loss in losses) is (name == DK_DINO)


def silent(name: str) -> set[str]:
    """Where contents start from nothing, the first layer has nothing to multiply."""
    zero = name in ("detr_R50", "conditional_detr_R50", "dab_detr_R50")
    own = "decoder.layers.0.self_attention."
    return {own + part for part in ("q_content.weight", "k_content.weight", "value.weight")} if zero else set()


@each_detector
def test_every_parameter_does_learn_from_a_batch_with_objects(name: str) -> None:
    detector = configured_detector(name)
    sum(step(detector, batch("unequal")).values()).backward()
    unmoved = {name for name, parameter in detector.named_parameters() if not parameter.grad.any()}
    assert unmoved <= silent(name)


@each_detector
def test_losses_have_the_same_names_in_the_same_order_whatever_the_batch_holds(name: str) -> None:
    """Workers, and the parts of a batch, are averaged loss by loss."""
    detector = configured_detector(name)
    names = [list(step(detector, batch(kind))) for kind in BATCHES]
    assert all(each == names[0] for each in names)


@each_denoising
def test_a_batch_without_objects_adds_no_query_and_costs_nothing(name: str) -> None:
    detector = configured_detector(name)
    sizes: list[list[str]] = []
    detector.decoder.register_forward_pre_hook(lambda _, given: sizes.append([g.name for g in given[0].groups]))
    losses = step(detector, batch("none"))
    step(detector, batch("one without"))
    assert "denoising" not in sizes[0] and "denoising" in sizes[1]
    denoising = [loss for name, loss in losses.items() if "_dn_" in name]
    assert len(denoising) == 3 and all(loss == 0 and loss.requires_grad for loss in denoising)


@each_detector
def test_a_few_steps_lower_the_loss_on_what_was_seen(name: str) -> None:
    detector, inputs = configured_detector(name), batch("equal")
    optimizer = torch.optim.AdamW(detector.parameters(), lr=4e-3)
    totals = []
    for _ in range(8):
        total: Any = sum(step(detector, inputs).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.8 * totals[0]


@each_detector
def test_what_the_padding_of_the_feature_maps_holds_changes_no_loss(name: str) -> None:
    detector, inputs = configured_detector(name), [tiny_input((40, 48), seed=1), tiny_input((64, 33), 3, seed=2)]
    before = step(detector, inputs)
    detector.neck.register_forward_hook(lambda module, given, levels: [garbage(level) for level in levels])
    for loss, value in step(detector, inputs).items():
        torch.testing.assert_close(value, before[loss], msg=lambda text, loss=loss: f"{loss}: {text}")


def garbage(level: Tensor) -> Tensor:
    """A map of the batch above with large numbers where it shows no image: the batch is padded to 64 x 48 pixels."""
    level = level.clone()
    h, w = level.shape[-2:]
    level[0, :, -(-40 * h // 64) :] = 1e3
    level[1, :, :, -(-33 * w // 48) :] = 1e3
    return level


# ---- detecting ----


def unlabelled(size: tuple[int, int], seed: int) -> dict[str, Any]:
    return {key: value for key, value in tiny_input(size, seed=seed).items() if key != "instances"}


def assert_same(ours: Instances, theirs: Instances) -> None:
    """The same detections in the same order, to float noise."""
    assert torch.equal(ours.pred_classes, theirs.pred_classes)
    torch.testing.assert_close(ours.scores, theirs.scores, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours.pred_boxes.tensor, theirs.pred_boxes.tensor, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("other", SIZES[1:])
@each_detector
def test_batch_of_two_equals_two_batches_of_one(name: str, other: tuple[int, int]) -> None:
    detector = configured_detector(name)
    inputs = [unlabelled(SIZES[0], 1), unlabelled(other, 2)]
    for given, together in zip(inputs, detector(inputs)):
        (alone,) = detector([given])
        assert_same(together["instances"], alone["instances"])


@each_detector
def test_different_images_do_give_different_detections(name: str) -> None:
    first, second = configured_detector(name)([unlabelled((40, 48), 1), unlabelled((40, 48), 2)])
    assert not torch.allclose(first["instances"].scores, second["instances"].scores, atol=1e-4)


@each_detector
def test_at_inference_there_is_the_group_of_detection_queries_and_no_other(name: str) -> None:
    """Extensions are absent, not switched off: without them detections are the same to the last bit."""
    detector, seen = configured_detector(name), []
    detector.decoder.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    (found,) = detector([unlabelled((40, 48), 1)])
    assert [(group.name, len(group)) for group in seen[0].groups] == [("detection", QUERIES)]
    detector.extensions.clear()
    (again,) = detector([unlabelled((40, 48), 1)])
    assert torch.equal(found["instances"].scores, again["instances"].scores)
    assert torch.equal(found["instances"].pred_boxes.tensor, again["instances"].pred_boxes.tensor)


def test_detr_says_one_word_of_each_query() -> None:
    (found,) = configured_detector("detr_R50")([unlabelled((40, 48), 1)])
    queries = found["instances"].query.tolist()
    assert len(queries) == QUERIES and len(set(queries)) == QUERIES


@pytest.mark.parametrize(("name", "options"), [("dino_R50_4scale", OPEN_DINO), (DK_DINO, {})], ids=["open", "dk"])
def test_dino_with_a_text_classifier_detects_any_words(name: str, options: dict[str, Any]) -> None:
    detector, image = configured_detector(name, **options), unlabelled((40, 48), 1)
    detector.num_detections = 1000
    words = tiny_vocabulary((False,) * 7, seed=5)
    detector.set_vocabulary(words)
    (found,) = detector([image])
    assert set(found["instances"].pred_classes.tolist()) == set(range(7))
    order = [3, 0, 6, 1, 5, 2, 4]
    detector.set_vocabulary(words.select([words.names[number] for number in order]))
    (other,) = detector([image])
    torch.testing.assert_close(other["instances"].scores, found["instances"].scores)
    renamed = torch.tensor(order)[other["instances"].pred_classes]
    assert sorted(zip(renamed.tolist(), other["instances"].query.tolist())) == sorted(
        zip(found["instances"].pred_classes.tolist(), found["instances"].query.tolist())
    )


@pytest.mark.parametrize("name", SERIES)
def test_a_closed_detector_takes_a_selection_of_its_words_and_refuses_others(name: str) -> None:
    detector = configured_detector(name)
    detector.set_vocabulary(closed_vocabulary().select(["word 4", "word 1"]))
    (found,) = detector([unlabelled((40, 48), 1)])
    assert set(found["instances"].pred_classes.tolist()) <= {0, 1}
    with pytest.raises(ValueError, match="knows the 5 words of its training"):
        detector.set_vocabulary(tiny_vocabulary())


# ---- denoising beside detection ----


def detection(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: loss for name, loss in losses.items() if "_dn_" not in name and "_kd_" not in name}


def denoising_loss(losses: dict[str, Tensor]) -> Tensor:
    return sum(loss for name, loss in losses.items() if "_dn_" in name)  # type: ignore[return-value]


def denoising_of(detector: DETR) -> Denoising:
    (denoising,) = (part for part in detector.extensions.values() if isinstance(part, Denoising))
    return denoising


@pytest.mark.parametrize("kind", BATCHES)
@each_denoising
def test_a_detector_with_extensions_has_the_detection_losses_of_one_without(name: str, kind: str) -> None:
    company = detection(step(configured_detector(name), batch(kind)))
    detector = configured_detector(name)
    detector.extensions.clear()
    alone = step(detector, batch(kind))
    assert company.keys() == alone.keys()
    for loss, value in alone.items():
        torch.testing.assert_close(company[loss], value, rtol=1e-5, atol=1e-6)


@each_denoising
def test_what_noisy_queries_know_changes_no_loss_but_their_own(name: str) -> None:
    detector = configured_detector(name)
    before = step(detector, batch("unequal"))
    with torch.no_grad():
        denoising_of(detector).content.weight.mul_(-3)
    after = step(detector, batch("unequal"))
    assert all(torch.equal(before[loss], after[loss]) for loss in before if "_dn_" not in loss)
    assert (denoising_loss(before) - denoising_loss(after)).abs() > 1e-3


@each_denoising
def test_detection_gives_no_gradient_to_noisy_queries_and_they_may_blame_what_they_see(name: str) -> None:
    """Noisy queries see those that detect, so that these learn from them, too, as in the releases."""
    detector, started = configured_detector(name), []
    detector.decoder.register_forward_pre_hook(lambda _, given: started.append(given[0]))
    losses = step(detector, batch("unequal"))
    queries: QuerySet = started[0]
    learned = denoising_of(detector).content.weight
    total: Any = sum(detection(losses).values())
    for content in (queries["denoising"].content, learned):
        assert not torch.autograd.grad(total, content, retain_graph=True)[0].any()
    assert torch.autograd.grad(denoising_loss(losses), learned, retain_graph=True)[0].any()
    if queries["detection"].content.requires_grad:
        assert torch.autograd.grad(denoising_loss(losses), queries["detection"].content)[0].any()


def test_dk_dinos_distillation_denoising_and_detection_leave_one_another_alone() -> None:
    detector, started = configured_detector(DK_DINO), []
    detector.decoder.register_forward_pre_hook(lambda _, given: started.append(given[0]))
    losses = step(detector, batch("unequal"))
    queries: QuerySet = started[0]
    assert [group.name for group in queries.groups] == ["detection", "denoising", "auxiliary"]
    taught: Any = sum(loss for name, loss in losses.items() if "_kd_" in name)
    found: Any = sum(detection(losses).values())
    contents = {name: queries[name].content for name in ("detection", "denoising", "auxiliary")}

    def learners(loss: Tensor) -> set[str]:
        grads = torch.autograd.grad(loss, list(contents.values()), retain_graph=True)
        return {name for name, grad in zip(contents, grads) if grad.any()}

    assert learners(taught) == {"auxiliary"} and learners(found) == {"detection"}
    assert learners(denoising_loss(losses)) == {"detection", "denoising"}
    heads = [*detector.decoder.box_heads.parameters(), *detector.queries.box_head.parameters()]
    assert not any(g is not None and g.any() for g in torch.autograd.grad(taught, heads, allow_unused=True))


def test_dk_dinos_denoising_losses_do_not_depend_on_distillation() -> None:
    with_teacher, without = configured_detector(DK_DINO), configured_detector(DK_DINO)
    del without.extensions["Distillation"]
    torch.testing.assert_close(
        denoising_loss(step(with_teacher, batch("unequal"))), denoising_loss(step(without, batch("unequal")))
    )


# ---- the loss of noisy queries, written out ----


def focal(logit: float, wanted: bool) -> float:
    p = 1 / (1 + math.exp(-logit))
    return -0.25 * (1 - p) ** 2 * math.log(p) if wanted else -0.75 * p**2 * math.log(1 - p)


def corners(box: Sequence[float]) -> tuple[float, float, float, float]:
    x, y, w, h = box
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


def giou(one: Sequence[float], other: Sequence[float]) -> float:
    a, b = corners(one), corners(other)
    inter = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = one[2] * one[3] + other[2] * other[3] - inter
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return inter / union - (hull - union) / hull


def denoising_losses_by_hand(
    logits: Tensor, boxes: Tensor, targets: Targets, num_groups: int, copies: int
) -> dict[str, float]:
    """Sums over layers, images, groups, positives and negatives, over (objects · groups); without weights."""
    most, losses = max(targets.counts), {"class": 0.0, "l1": 0.0, "giou": 0.0}
    for layer in range(len(logits)):
        for image, count in enumerate(targets.counts):
            for seat in range(num_groups * copies * most):
                thing, negative = seat % most, seat // most % copies == 1
                if thing >= count:
                    continue
                label, box = int(targets.labels[image][thing]), targets.boxes[image][thing].tolist()
                for word, logit in enumerate(logits[layer, image, seat].tolist()):
                    losses["class"] += focal(logit, word == label and not negative)
                if not negative:
                    found = boxes[layer, image, seat].tolist()
                    losses["l1"] += sum(abs(a - b) for a, b in zip(found, box))
                    losses["giou"] += 1 - giou(found, box)
    return {name: loss / (sum(targets.counts) * num_groups) for name, loss in losses.items()}


@pytest.mark.parametrize("kind", ["equal", "unequal", "one without"])
@each_denoising
def test_the_losses_of_noisy_queries_are_those_of_their_own_objects(name: str, kind: str) -> None:
    detector, seen = configured_detector(name), {}
    denoising = denoising_of(detector)
    prepare = denoising.prepare
    denoising.prepare = lambda inputs: seen.setdefault("plan", prepare(inputs))
    detector.decoder.register_forward_hook(lambda _, given, trace: seen.update(trace=trace))
    inputs = batch(kind)
    with torch.no_grad():
        losses = step(detector, inputs)
    plan: DenoisingPlan = seen["plan"]
    trace: Trace = seen["trace"]
    hidden_states, boxes = trace.of("denoising")
    logits = detector.classifier(hidden_states, detector.train_text)
    copies = 2 if isinstance(denoising, ContrastiveDenoising) else 1
    wanted = denoising_losses_by_hand(logits, boxes, detector.targets(inputs), plan.num_groups, copies)
    for term, weight in {"class": 2.0 if name == DK_DINO else 1.0, "l1": 5.0, "giou": 2.0}.items():
        assert losses[f"loss_dn_{term}"].item() == pytest.approx(weight * wanted[term], rel=1e-3)


# ---- two workers ----

WITHOUT_NOISE = {
    f"{kind}__{noise}": 0.0 for kind in ("DENOISING", "CONTRASTIVE_DENOISING") for noise in ("LABEL_NOISE", "BOX_NOISE")
}  # for workers roll other dice than one would


def learn(name: str, counts: list[int], seeds: list[int]) -> dict[str, Tensor]:
    """Gradients of a step on images of one size with so many objects."""
    detector = configured_detector(name, **WITHOUT_NOISE)
    inputs = [tiny_input(num_objects=count, seed=seed) for count, seed in zip(counts, seeds)]
    sum(training_losses(detector, inputs).values()).backward()
    return {name: parameter.grad for name, parameter in detector.named_parameters()}


def learn_in_a_worker(rank: int, name: str, counts: list[int]) -> dict[str, Tensor]:
    return learn(name, counts[rank : rank + 1], [rank + 1])


@pytest.mark.parametrize("counts", [(2, 2), (3, 1), (0, 3)], ids=str)
@pytest.mark.parametrize("name", ["detr_R50", "dn_detr_R50", "dino_R50_4scale"])
def test_two_workers_learn_as_one_however_unequal_their_images(
    in_two_workers: Callable[..., list[Any]], name: str, counts: tuple[int, int]
) -> None:
    """Groups without noise say the same, so that it does not matter that a worker with fewer objects has more."""
    wanted = learn(name, list(counts), [1, 2])
    first, second = in_two_workers(learn_in_a_worker, name, list(counts))
    for parameter, grad in wanted.items():
        mean = (first[parameter] + second[parameter]) / 2
        torch.testing.assert_close(mean, grad, rtol=1e-3, atol=1e-4, msg=lambda text, p=parameter: f"{p}: {text}")
