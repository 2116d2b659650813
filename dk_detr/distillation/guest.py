"""Guest: a frozen model that lives in a trained one without belonging to it."""

from typing import Any, Protocol

import torch


class Movable(Protocol):
    """Something that follows to a device."""

    def to(self, device: torch.device) -> Any: ...


class Guest:
    """Keeps a frozen model out of the module tree of its host.

    It is not in `state_dict`, optimizer, `train()` or DDP; it moves to the device of what it is asked about; a deep
    copy of the host (EMA) shares it instead of copying hundreds of megabytes.
    """

    def __init__(self, model: Movable) -> None:
        self._model = model
        self._device: torch.device | None = None

    def on(self, device: torch.device) -> Any:
        """The model, on this device."""
        if self._device != device:
            self._model.to(device)
            self._device = device
        return self._model

    def __deepcopy__(self, memo: dict[int, Any]) -> "Guest":
        return self
