"""MovingAverage: the weights averaged over the last iterations, which often detect better than the last ones."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from detectron2.config import CfgNode
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

EMA_KEY = "moving_average"  # in checkpoints


class MovingAverage:
    """Exponential moving average (EMA) of the trainable parameters. Frozen parameters and buffers are not averaged: for
    evaluation the model keeps its own.

    It costs the memory of the parameters once more. For evaluation the two are exchanged, nothing is copied.

    Args:
        model: without DDP around it. decay: share of the average that a step leaves; lower in the first steps, after n
            of them at most n / (9 + n), so that the start is soon forgotten (TensorFlow's rule).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0.0 < decay < 1.0:
            raise ValueError(f"SOLVER.EMA_DECAY must lie between 0 and 1, got {decay}.")
        self.decay, self.num_updates = decay, 0
        self._live = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self._average: dict[str, Tensor] = {}  # from the first step on

    def update(self) -> None:
        """Take in the weights after a step of the optimizer; the first are taken as they are."""
        if not self._average:
            self._average = {name: parameter.detach().clone() for name, parameter in self._live.items()}
        average: Any = get_ema_multi_avg_fn(min(self.decay, self.num_updates / (9 + self.num_updates)))
        average(list(self._average.values()), list(self._live.values()), None)
        self.num_updates += 1

    @contextmanager
    def in_the_model(self) -> Iterator[None]:
        """The model has the average for weights as long as the block lasts, and then, whatever happens, its own."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for name, average in self._average.items():
            live = self._live[name]
            live.data, average.data = average.data, live.data

    def state_dict(self) -> dict[str, Any]:
        """The average by the names of the parameters, and how many steps it has seen."""
        return {"num_updates": self.num_updates, "weights": dict(self._average)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's."""
        self.num_updates = state["num_updates"]
        self._average = {name: weight.to(self._live[name], copy=True) for name, weight in state["weights"].items()}


def average_from_config(cfg: CfgNode, model: nn.Module) -> MovingAverage | None:
    """The moving average of SOLVER.EMA_DECAY, or None without one."""
    return None if cfg.SOLVER.EMA_DECAY is None else MovingAverage(model, cfg.SOLVER.EMA_DECAY)


def averaged(checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
    """The weights of a checkpoint, with the moving average in place of those that were averaged; None without one."""
    average = checkpoint.get(EMA_KEY)
    weights = average.get("weights") if isinstance(average, dict) else None
    return {**checkpoint["model"], **weights} if weights else None
