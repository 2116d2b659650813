"""Step: a batch in one part or several, by one worker or two, is one and the same step; what is no number stops it."""

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from dk_detr.distillation import SlotSelection
from dk_detr.engine import setup_cfg
from dk_detr.engine.precision import Precision
from dk_detr.engine.step import Step, parts_from_config
from tests.model_fixtures import tiny_detector, tiny_distillation, tiny_input
from tests.run_fixtures import MINI, World

COUNTS = (0, 3, 1, 2)  # objects of the four images


def batch(counts: tuple[int, ...] = COUNTS) -> list[dict[str, Any]]:
    """Images of one size: what is padded sees padding, also in a part."""
    return [tiny_input(num_objects=count, seed=seed) for seed, count in enumerate(counts, start=1)]


def learnt(model: nn.Module, inputs: list[dict[str, Any]], num_parts: int = 1) -> tuple[dict[str, Tensor], Any]:
    """Gradients and reported metrics of a step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    step = Step(model, [inputs], optimizer, num_parts)
    with EventStorage() as storage:
        step.run_step()
    metrics = {name: value for name, (value, _) in storage.latest().items()}
    return {name.removeprefix("module."): p.grad for name, p in model.named_parameters()}, metrics


def assert_close(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Equal gradients to float noise."""
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: name + text)


# ---- one part ----


class Toy(nn.Module):
    """Two losses that are what the input says."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.seen: list[int] = []
        self.told: list[float | Tensor | None] = []  # of the objects of the batch

    def forward(self, inputs: list[dict[str, Any]], num_objects: float | Tensor | None = None) -> dict[str, Tensor]:
        self.told.append(num_objects)
        self.seen += [sample["value"] for sample in inputs]
        value = sum(sample["value"] for sample in inputs) / len(inputs)
        return {"loss_a": self.weight * value, "loss_b": self.weight**2}


def toys(*values: float) -> list[dict[str, Any]]:
    return [{"value": x, "file_name": f"folder/{number}.jpg", "instances": []} for number, x in enumerate(values)]


def step_of_toys(*values: float, num_parts: int = 1) -> tuple[Step, Toy]:
    model = Toy()
    return Step(model, [toys(*values)], torch.optim.SGD(model.parameters(), lr=0.5), num_parts), model


def test_a_step_follows_the_gradient_of_the_sum_of_the_losses() -> None:
    step, model = step_of_toys(3.0)
    with EventStorage() as storage:
        step.run_step()
    assert model.weight.item() == pytest.approx(1 - 0.5 * (3 + 2))
    metrics = storage.latest()
    assert metrics["loss_a"][0] == 3 and metrics["loss_b"][0] == 1 and metrics["total_loss"][0] == 4
    assert metrics["data_time"][0] >= 0


def test_the_mean_of_the_losses_of_workers_and_the_longest_wait_for_data_are_reported() -> None:
    step, _ = step_of_toys(3.0)
    two_workers = patch("dk_detr.engine.step._of_all_workers", lambda row: torch.stack([row, row + 8]))
    with EventStorage() as storage, two_workers:
        step.run_step()
    metrics = storage.latest()
    assert (metrics["loss_a"][0], metrics["loss_b"][0], metrics["total_loss"][0]) == (3 + 4, 1 + 4, 4 + 8)
    assert metrics["data_time"][0] >= 8


def test_each_step_follows_its_own_gradient() -> None:
    model = Toy()
    step = Step(model, [toys(3.0), toys(1.0)], torch.optim.SGD(model.parameters(), lr=0.5))
    with EventStorage():
        step.run_step()
        before = model.weight.item()
        step.run_step()
    assert model.weight.item() == pytest.approx(before - 0.5 * (1 + 2 * before))


def test_the_host_asks_for_the_losses_once_and_before_the_last_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all that makes it wait for the device."""
    events: list[str] = []

    def watch(name: str) -> None:
        true = getattr(Tensor, name)
        monkeypatch.setattr(Tensor, name, lambda *args, **kwargs: events.append(name) or true(*args, **kwargs))

    for name in ("item", "tolist", "cpu", "numpy", "__float__", "__bool__", "backward"):
        watch(name)
    for num_parts, wanted in ((1, ["tolist", "backward"]), (2, ["backward", "tolist", "backward"])):
        events.clear()
        step, _ = step_of_toys(1.0, 2.0, num_parts=num_parts)
        with EventStorage():
            step.run_step()
        assert events == wanted


# ---- several parts ----


@pytest.mark.parametrize("num_parts", [2, 4])
@pytest.mark.parametrize("counts", [COUNTS, (0, 0, 0, 0), (9, 0, 0, 0)], ids=str)
def test_a_batch_in_parts_teaches_what_the_batch_does(counts: tuple[int, ...], num_parts: int) -> None:
    whole, metrics = learnt(tiny_detector(), batch(counts))
    parts, in_parts = learnt(tiny_detector(), batch(counts), num_parts)
    assert_close(parts, whole)
    for name, value in metrics.items():
        if "loss" in name:
            assert in_parts[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name


@pytest.mark.parametrize(
    ("counts", "num_parts", "told"),
    [((0, 3, 1, 2), 1, [None]), ((0, 3, 1, 2), 2, [3.0] * 2), ((0, 3, 1, 2), 4, [1.5] * 4), ((0, 0), 2, [0.5] * 2)],
)
def test_each_part_is_told_its_share_of_the_objects_and_a_whole_batch_counts_by_itself(
    counts: tuple[int, ...], num_parts: int, told: list[float | None]
) -> None:
    model = Toy()
    samples = [{"value": 1.0, "file_name": "", "instances": [0] * count} for count in counts]
    with EventStorage():
        Step(model, [samples], torch.optim.SGD(model.parameters(), lr=0.5), num_parts).run_step()
    assert model.told == told


def test_a_batch_that_parts_do_not_divide_is_refused_before_it_teaches_half_of_it() -> None:
    """A stream of a project's own may make such batches."""
    model = tiny_detector()
    step = Step(model, [batch((1, 1, 1))], torch.optim.SGD(model.parameters(), lr=0.1), num_parts=2)
    with EventStorage(), pytest.raises(ValueError, match="SOLVER.ACCUMULATE 2 does not divide a batch of 3 samples"):
        step.run_step()


class NamesInAnyOrder(nn.Module):
    """Says the losses of each part in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.calls = nn.Parameter(torch.ones(())), 0

    def forward(self, batched_inputs: list[Any], num_objects: Any = None) -> dict[str, Tensor]:
        losses = {"loss_a": self.weight * 1.0, "loss_b": self.weight * 10.0}
        self.calls += 1
        return losses if self.calls % 2 else dict(reversed(losses.items()))


def test_losses_are_reported_by_name_whatever_their_order_in_a_part() -> None:
    _, metrics = learnt(NamesInAnyOrder(), batch((1, 1)), num_parts=2)
    assert metrics["loss_a"] == 1.0 and metrics["loss_b"] == 10.0


def test_distillation_within_images_does_too() -> None:
    """As long as every image has regions to teach."""
    slots = SlotSelection(num_slots=5, filters=(), min_side=0.0)
    terms = ("semantic", "relational", "embedding_l1")

    def detector() -> nn.Module:
        built = tiny_detector(tiny_distillation(terms, slots=slots))
        distillation = built.extensions["Distillation"]
        distillation.terms = [term for term in distillation.terms if term.scope == "image"]
        return built

    (whole, metrics), (parts, in_parts) = learnt(detector(), batch()), learnt(detector(), batch(), num_parts=2)
    assert_close(parts, whole)
    assert metrics["loss_kd_semantic"] > 0
    assert in_parts["loss_kd_semantic"] == pytest.approx(metrics["loss_kd_semantic"], rel=1e-4)


def test_each_image_goes_through_once_and_in_order() -> None:
    step, model = step_of_toys(1.0, 2.0, 3.0, 4.0, 5.0, 6.0, num_parts=3)
    with EventStorage():
        step.run_step()
    assert model.seen == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert model.weight.item() == pytest.approx(1 - 0.5 * (3.5 + 2))


def test_parts_keep_the_memory_of_one() -> None:
    """What a forward keeps for its backward, which it is rid of before the next begins."""
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept[-1] += tensor.nbytes
        return tensor

    model = tiny_detector()
    model.register_forward_pre_hook(lambda module, given: kept.append(0))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        learnt(model, batch())
        learnt(model, batch(), num_parts=4)
    whole, *parts = kept
    assert len(parts) == 4 and max(parts) < 0.4 * whole


def test_parts_that_are_not_equal_are_refused_by_both_keys(world: World) -> None:
    def parts(**keys: int) -> int:
        return parts_from_config(setup_cfg(MINI, world.options(**{f"SOLVER__{k}": v for k, v in keys.items()})))

    assert parts(IMS_PER_BATCH=6, ACCUMULATE=3) == 3
    for wrong in (4, 0, -1, 12):
        with pytest.raises(ValueError, match=f"SOLVER.ACCUMULATE is {wrong}, .* 6 images.*IMS_PER_BATCH 6 among 1"):
            parts(IMS_PER_BATCH=6, ACCUMULATE=wrong)


# ---- several workers ----


def learn_in_a_worker(rank: int, num_parts: int) -> tuple[dict[str, Tensor], Any]:
    model = DistributedDataParallel(tiny_detector(tiny_distillation(("semantic",))), broadcast_buffers=False)
    return learnt(model, batch()[2 * rank : 2 * rank + 2], num_parts)


@pytest.mark.parametrize("num_parts", [1, 2])
def test_two_workers_learn_and_report_what_one_does(in_two_workers: Callable[..., Any], num_parts: int) -> None:
    wanted, metrics = learnt(tiny_detector(tiny_distillation(("semantic",))), batch())
    (first, ours), (second, theirs) = in_two_workers(learn_in_a_worker, num_parts)
    assert_close(first, wanted)
    assert not [name for name in first if not torch.equal(first[name], second[name])]
    for name in (name for name in metrics if name.startswith(("loss", "total"))):
        assert ours[name] == theirs[name] == pytest.approx(metrics[name], rel=1e-4)


def count_reductions(rank: int, num_parts: int) -> int:
    """How often gradients are exchanged in a step."""
    model, count = DistributedDataParallel(Toy()), 0

    def reduce(state: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        nonlocal count
        count += 1
        return allreduce_hook(None, bucket)

    model.register_comm_hook(None, reduce)
    learnt(model, toys(1.0, 2.0, 3.0, 4.0), num_parts)
    return count


def test_workers_exchange_gradients_once_a_step(in_two_workers: Callable[..., Any]) -> None:
    assert in_two_workers(count_reductions, 1) == [1, 1]
    assert in_two_workers(count_reductions, 4) == [1, 1]


def fail_in_a_worker(rank: int) -> str:
    step, _ = step_of_toys(float("nan") if rank else 1.0)
    with EventStorage(), pytest.raises(FloatingPointError) as error:
        step.run_step()
    return str(error.value)


def test_what_is_no_number_in_one_worker_stops_all_and_names_its_images(in_two_workers: Callable[..., Any]) -> None:
    first, second = in_two_workers(fail_in_a_worker)
    assert first == second
    assert "at iteration 0: loss_a. Images: 0.jpg. Look" in first


# ---- what is no number ----


@pytest.mark.parametrize("num_parts", [1, 2])
@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_names_iteration_loss_and_images_and_changes_nothing(broken: float, num_parts: int) -> None:
    step, model = step_of_toys(broken, 1.0, num_parts=num_parts)
    step.iter = 7
    with EventStorage(), pytest.raises(FloatingPointError) as error:
        step.run_step()
    message = str(error.value)
    assert "The loss is not finite at iteration 7: loss_a. Images: 0.jpg, 1.jpg." in message
    assert message.endswith("or lower SOLVER.BASE_LR.") and "AMP" not in message
    assert model.weight.item() == 1


# ---- what no loss reaches ----


class Idle(Toy):
    """Has a weight that nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Parameter(torch.ones(2))


def take_a_step(model: nn.Module) -> None:
    with EventStorage():
        Step(model, [toys(1.0)], torch.optim.SGD(model.parameters(), lr=0.5)).run_step()


def idle_in_a_worker(rank: int) -> str:
    with pytest.raises(ValueError) as error:
        take_a_step(DistributedDataParallel(Idle()))
    return str(error.value)


def test_a_parameter_that_no_loss_reaches_is_named_where_workers_would_wait_for_it(
    in_two_workers: Callable[..., Any],
) -> None:
    for message in in_two_workers(idle_in_a_worker):
        assert message.startswith("No loss reaches idle (1 such parameters), and several workers would wait")


def test_one_worker_trains_without_it_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING"):
        take_a_step(Idle())
    assert [record.getMessage()[:21] for record in caplog.records] == ["No loss reaches idle "]


def broken_statistic_in_a_worker(rank: int) -> str:
    model = nn.Sequential(nn.BatchNorm1d(2))
    step = Step(model, [], torch.optim.SGD(model.parameters(), lr=0.5))
    if rank:
        model[0].running_var.fill_(float("nan"))
    with pytest.raises(FloatingPointError) as error:
        step.require_sound()
    return str(error.value)


def test_a_statistic_that_broke_in_one_worker_stops_all(in_two_workers: Callable[..., Any]) -> None:
    """BatchNorm keeps its own in each."""
    first, second = in_two_workers(broken_statistic_in_a_worker)
    assert first == second and "The model is not finite at iteration 0: 0.running_var (1 such)." in first


def test_a_gradient_that_overflows_at_every_scale_is_broken() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**-15)
    step, _ = step_of_toys(1.0)
    step.precision = Precision("cpu", torch.float16, scaler)
    scaler.scale(torch.zeros(()))
    with pytest.raises(FloatingPointError, match="The gradient is not finite at iteration 0, however small its scale"):
        step.require_sound()
