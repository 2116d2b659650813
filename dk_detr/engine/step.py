"""Step: one iteration of training, in whatever precision and in however many parts. K losses, W workers."""

import logging
import math
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import get_total_norm

from dk_detr.criterion import mean_num_objects
from dk_detr.engine.ema import MovingAverage
from dk_detr.engine.precision import Precision
from dk_detr.utils import record_now

Batch = list[dict[str, Any]]
Losses = dict[str, Tensor]
LEAST_SCALE = 2.0**-14  # of gradients in float16: thirty steps in a row were skipped, so it is no overflow
logger = logging.getLogger(__name__)


class NotFinite(FloatingPointError):
    """Training went wrong; all workers raise it together."""


class Step:
    """Losses of a batch, their gradients, one step of the optimizer; in the place of Detectron2's `SimpleTrainer`.

    Losses are read once an iteration, before the last backward: for matching the host has had to wait there anyway,
    and from there on it runs ahead of the device until the matching of the next iteration. The norm of the gradient is
    read with the losses of the next iteration: our optimizers change nothing where it is not finite.

    Args:
        model: gives a dict of losses, in DDP where there are several workers; of a part of a batch it takes
            `num_objects`, too. batches: endless.
        num_parts: a batch goes through the model in so many equal parts, one after the other, and the memory of one.
        average: is kept up to date with the weights; None for none.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[Batch],
        optimizer: torch.optim.Optimizer,
        num_parts: int = 1,
        precision: Precision | None = None,
        average: MovingAverage | None = None,
    ) -> None:
        self.model, self.data_loader, self.optimizer = model.train(), batches, optimizer
        self.num_parts, self.precision, self.average = num_parts, precision or Precision(), average
        self.iter = 0
        self._batches = iter(batches)
        self._learnt_from: Batch = []  # in the iteration before
        self._all_reached = False

    def run_step(self) -> None:
        """One iteration. Raises NotFinite naming iteration and images where a loss is no number, or the gradient
        of the iteration before; ValueError for parameters that no loss reaches, where several workers wait for them."""
        start = time.perf_counter()
        batch = next(self._batches)
        data_time = time.perf_counter() - start
        self.optimizer.zero_grad()
        self._learn(batch, data_time)
        self._require_all_reached()
        self.precision.step(self.optimizer)
        if self.average is not None:
            self.average.update()

    def _learn(self, batch: Batch, data_time: float) -> None:
        """Gradients of the mean of the losses of all parts."""
        if not batch or len(batch) % self.num_parts:
            raise ValueError(f"SOLVER.ACCUMULATE {self.num_parts} does not divide a batch of {len(batch)} samples.")
        size, of_batch = len(batch) // self.num_parts, self._num_objects(batch)
        seen: list[Losses] = []
        for start in range(0, len(batch), size):
            last = start + size == len(batch)
            with self._joined_by_workers(last):
                with self.precision.autocast():
                    losses: Losses = self.model(batch[start : start + size], **of_batch)
                seen.append({name: loss.detach() for name, loss in losses.items()})
                if last:
                    self._report(seen, batch, data_time)
                total: Any = sum(losses.values())
                self.precision.backward(total / self.num_parts)

    def _num_objects(self, batch: Batch) -> dict[str, Any]:
        """Parts are told what their losses are divided by, the objects of the whole batch, so that the mean of their
        losses is that of the batch; a whole batch knows by itself."""
        if self.num_parts == 1:
            return {}
        number = sum(len(sample.get("instances", ())) for sample in batch)
        return {"num_objects": mean_num_objects(number, next(self.model.parameters()).device) / self.num_parts}

    def _joined_by_workers(self, last: bool) -> AbstractContextManager[None]:
        """Workers exchange gradients once, with the last part."""
        wait = isinstance(self.model, DistributedDataParallel) and not last
        return self.model.no_sync() if wait else nullcontext()  # type: ignore[operator]

    def _report(self, seen: list[Losses], batch: Batch, data_time: float) -> None:
        """Store the losses, as means over parts and workers, and the longest time that a worker waited for data."""
        names = sorted(seen[0])
        mean = torch.stack([torch.stack([losses[name] for name in names]) for losses in seen]).float().mean(0)
        rows = _of_all_workers(torch.cat([mean, mean.new_full((1,), data_time), self._norm(mean)])).tolist()
        *columns, data_times, norms = zip(*rows)
        self._require_finite_gradient(norms, self.iter - 1)
        losses = {name: sum(column) / len(column) for name, column in zip(names, columns)}
        broken = [name for name, loss in losses.items() if not math.isfinite(loss)]
        if broken:
            blamed = batch if not all(map(math.isfinite, rows[comm.get_rank()])) else []
            raise NotFinite(self._complaint("loss", self.iter, f": {', '.join(broken)}", blamed))
        self._learnt_from = batch
        record_now()
        storage = get_event_storage()
        storage.put_scalars(data_time=max(data_times), total_loss=sum(losses.values()), **losses)

    def _norm(self, like: Tensor) -> Tensor:
        """(1,) norm of the gradient of the last step, with the type and device of `like`; 0 where nothing is known."""
        norm = getattr(self.optimizer, "norm", None)
        return like.new_zeros(1) if norm is None else norm.detach().reshape(1).to(like)

    def _require_finite_gradient(self, norms: Iterable[float], iteration: int) -> None:
        if not all(map(math.isfinite, norms)):
            raise NotFinite(self._complaint("gradient", iteration, "", self._learnt_from))

    def _complaint(self, what: str, iteration: int, more: str, blamed: Batch) -> str:
        """`blamed`: the batch of this worker, if it is one of those to blame."""
        names = comm.all_gather([os.path.basename(sample.get("file_name", "?")) for sample in blamed])
        half = "" if self.precision.dtype is None else ", or go without SOLVER.AMP"
        return (
            f"The {what} is not finite at iteration {iteration}{more}. "
            f"Images: {', '.join(name for worker in names for name in worker)}. "
            f"Look at their boxes, or lower SOLVER.BASE_LR{half}."
        )

    def require_sound(self) -> None:
        """Asked for before weights are saved, by all workers; the host waits for the device. Raises NotFinite for the
        gradient, parameters or statistics."""
        if self.precision.scaler.is_enabled() and self.precision.scaler.get_scale() < LEAST_SCALE:
            raise NotFinite(self._complaint("gradient", self.iter, ", however small its scale", self._learnt_from))
        norms = [row.item() for row in _of_all_workers(self._norm(next(self.model.parameters())))]
        self._require_finite_gradient(norms, self.iter)
        state = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        broken = sorted({name for names in comm.all_gather(broken_values(state)) for name in names})
        if broken:
            told = f": {broken[0].removeprefix('module.')} ({len(broken)} such)"
            raise NotFinite(self._complaint("model", self.iter, told, self._learnt_from))

    def _require_all_reached(self) -> None:
        """In the first step of all, for DDP would stop at the second one, or wait for ever."""
        if self._all_reached:
            return
        self._all_reached = True
        missed = [name for name, p in self.model.named_parameters() if p.requires_grad and p.grad is None]
        if not missed:
            return
        told = f"No loss reaches {missed[0].removeprefix('module.')} ({len(missed)} such parameters)"
        if comm.get_world_size() > 1:
            raise ValueError(f"{told}, and several workers would wait for its gradient. Leave out what nothing reads.")
        logger.warning(f"{told}: they learn nothing, and the config does not train with several workers.")

    def state_dict(self) -> dict[str, Any]:
        """What must be known to go on."""
        return {"optimizer": self.optimizer.state_dict(), "grad_scaler": self.precision.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Also of a run without a scaler."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.precision.load_state_dict(state.get("grad_scaler", {}))


def broken_values(state: Mapping[str, Tensor]) -> list[str]:
    """Names of what holds a number that is not finite. The device is waited for once, unless there are some."""
    floats = {name: value for name, value in state.items() if value.is_floating_point() and value.numel()}
    if not floats or math.isfinite(float(get_total_norm([value.detach() for value in floats.values()], math.inf))):
        return []
    return [name for name, value in floats.items() if not bool(value.isfinite().all())]


def _of_all_workers(row: Tensor) -> Tensor:
    """(N,) of this worker -> (W, N)."""
    if comm.get_world_size() == 1:
        return row[None]
    rows = [torch.empty_like(row) for _ in range(comm.get_world_size())]
    dist.all_gather(rows, row)
    return torch.stack(rows)


def parts_from_config(cfg: CfgNode) -> int:
    """SOLVER.ACCUMULATE. Raises ValueError where it does not divide the images of a worker."""
    parts, images = cfg.SOLVER.ACCUMULATE, cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size()
    if parts < 1 or images % parts:
        raise ValueError(
            f"SOLVER.ACCUMULATE is {parts}, which does not divide the {images} images of a worker "
            f"(SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} among {comm.get_world_size()}) into equal parts."
        )
    return parts
