"""The device of a run. One named on the command line must be there; one named in a file may be replaced by the CPU."""

import functools
import logging
import multiprocessing
import os

import torch
from detectron2.config import CfgNode


def resolve_device(cfg: CfgNode, config_file: str, asked: bool) -> None:
    """Let MODEL.DEVICE be one that this machine has.

    Args:
        config_file: the file that was read; the config of a run on a GPU should serve elsewhere, with a warning.
        asked: whether the user named the device, who should not get another.

    Raises: ValueError for what is no device, and for one that was asked for and is not here.
    """
    name = cfg.MODEL.DEVICE
    missing = _why_not(name)
    if missing is None:
        return
    if asked:
        raise ValueError(f"MODEL.DEVICE {name}: {missing}. Add `MODEL.DEVICE cpu` to use the CPU.")
    _warn(f"{config_file} names MODEL.DEVICE {name}, but {missing}: using the CPU (`MODEL.DEVICE cpu`).")
    cfg.MODEL.DEVICE = "cpu"


def _why_not(name: str) -> str | None:
    """What is missing here for a device; None for nothing."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f'MODEL.DEVICE "{name}" is no device: use cuda, cuda:1 or cpu.') from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            return "torch finds no CUDA or ROCm device here"
        count = torch.cuda.device_count()
        return f"this machine has {count} GPUs, counted from 0" if (device.index or 0) >= max(count, 1) else None
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
        return "torch cannot use it here"
    return None


@functools.cache
def _warn(message: str) -> None:
    """Once, and by one process of a run."""
    if multiprocessing.parent_process() is None and os.environ.get("RANK", "0") == "0":
        logging.getLogger(__name__).warning(message)
