"""From the command line to a checked config, an output folder and a log."""

import difflib
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from dk_detr.compat import detectron2_build
from dk_detr.config import add_dk_detr_config
from dk_detr.engine.checkpoint import CONFIG
from dk_detr.engine.config_file import merge_config, read_config
from dk_detr.engine.custom_data import use_custom_data, use_custom_words
from dk_detr.engine.device import resolve_device
from dk_detr.engine.failures import last_words
from dk_detr.engine.fit import no_weights
from dk_detr.engine.keep import use_keepers, use_kept_data
from dk_detr.engine.projects import add_projects, projects_of
from dk_detr.engine.renamed_keys import refuse_renamed_keys
from dk_detr.layers.ops import default_backend
from dk_detr.meta_arch.open_vocabulary import OpenVocabularyDetector
from dk_detr.utils.checkpoint_entry import checkpoint_entry
from dk_detr.utils.memory import keep_freed_memory
from dk_detr.zoo import config_path


def default_cfg(projects: Sequence[str] = ()) -> CfgNode:
    """All keys, those of projects among them, at their defaults. Without a GPU MODEL.DEVICE is the CPU."""
    cfg = get_cfg()
    add_dk_detr_config(cfg)
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    add_projects(cfg, projects)
    return cfg


def setup_cfg(config_file: str, opts: Sequence[str] = ()) -> CfgNode:
    """Read a config file and KEY VALUE pairs over the defaults. Raises ValueError naming a key that does not exist, or
    that has another name now."""
    cfg = _read(config_file, opts, "--config-file")
    words_before = cfg.MODEL.VOCABULARY.TEST
    use_custom_data(cfg)
    use_kept_data(cfg, words_before)
    use_keepers(cfg)
    cfg.freeze()
    return cfg


def guest_cfg(config_file: str, opts: Sequence[str], key: str) -> CfgNode:
    """The config of a model that takes part in a run of another: its data sets are not registered, for they may have
    the names of the run's. `key`: that names the file, for errors."""
    cfg = _read(config_file, opts, key)
    use_custom_words(cfg)
    cfg.freeze()
    return cfg


def checkpoint_cfg(weights: str, opts: Sequence[str] = ()) -> CfgNode:
    """The config that weights were trained with, and MODEL.WEIGHTS: it is in the file, or, where an older release wrote
    that, beside it in the folder of its run. Data sets are not registered.

    Raises: FileNotFoundError; ValueError for weights that have none.
    """
    if not os.path.isfile(weights):
        raise no_weights(weights)
    text, beside = checkpoint_entry(weights, CONFIG), os.path.join(os.path.dirname(weights), "config.yaml")
    if text is None and not os.path.isfile(beside):
        raise ValueError(
            f'{weights} does not say the config of its training: name the config, too, such as "dk_detr_R50.yaml".'
        )
    content = read_config(beside) if text is None else yaml.safe_load(text)
    cfg = _merged(content, [*opts, "MODEL.WEIGHTS", weights], weights)
    use_custom_words(cfg)
    cfg.freeze()
    return cfg


def _read(config_file: str, opts: Sequence[str], key: str) -> CfgNode:
    path = str(config_path(config_file, key))
    if len(opts) % 2:
        raise ValueError(f"Options come in pairs KEY VALUE; {len(opts)} words were given: {' '.join(opts)}.")
    return _merged(read_config(path), opts, config_file)


def _merged(content: dict[str, Any], opts: Sequence[str], source: str) -> CfgNode:
    """The defaults under the keys of a file under options. `source`: how messages call the file."""
    cfg = default_cfg()
    projects = projects_of(content, opts)
    with _known_keys(cfg):
        add_projects(cfg, projects)
        refuse_renamed_keys(cfg, content, opts)
        merge_config(cfg, content)
        cfg.merge_from_list(list(opts))
    cfg.PROJECTS = projects
    resolve_device(cfg, source, asked="MODEL.DEVICE" in opts[::2])
    return cfg


def with_values(cfg: CfgNode, values: Mapping[str, Any]) -> CfgNode:
    """The config with other values, by their dotted keys."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.merge_from_list([word for pair in values.items() for word in pair])
    cfg.freeze()
    return cfg


def for_inference(cfg: CfgNode) -> CfgNode:
    """The config of the same detector without what training adds to it: no extension, no teacher. The file of its
    calibration is not read, either, nor are weights that a backbone starts from: MODEL.WEIGHTS has both. Nor is what
    chooses the negatives of its loss."""
    left_out: dict[str, Any] = {
        "MODEL.TRAINING_EXTENSIONS": [],
        "MODEL.CALIBRATION": "",
        "MODEL.TIMM.PRETRAINED": "",
        "MODEL.DETR.LOSS.NEGATIVES": "All",
    }
    kind = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    more = kind.only_in_training(cfg) if issubclass(kind, OpenVocabularyDetector) else {}
    return with_values(cfg, {**left_out, **more})


@contextmanager
def _known_keys(cfg: CfgNode) -> Iterator[None]:
    try:
        yield
    except (KeyError, AssertionError) as error:
        message = str(error.args[0]) if error.args else ""
        if "Non-existent" not in message:
            if isinstance(error, AssertionError):  # yacs refuses the type of a value
                raise ValueError(message) from error
            raise
        key = message.split(":")[-1].strip()
        similar = difflib.get_close_matches(key, list(_all_keys(cfg)), n=1)
        hint = f" Did you mean {similar[0]}?" if similar else ""
        raise ValueError(f"There is no config key {key}.{hint} All keys are explained in dk_detr/config.py.") from error


def _all_keys(node: CfgNode, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield prefix + key
        if isinstance(value, CfgNode):
            yield from _all_keys(value, f"{prefix}{key}.")


def prepare_output(cfg: CfgNode, folder: str) -> logging.Logger:
    """Make the folder, and log to the terminal and to its log.txt; returns the logger."""
    os.makedirs(folder, exist_ok=True)
    rank = comm.get_rank()
    log_folder = os.path.abspath(folder)  # Detectron2 remembers log files by this name
    for name in ("fvcore", "detectron2", "dk_detr"):
        logger = setup_logger(log_folder, distributed_rank=rank, name=name)
        _leave_tracebacks_to_the_file(logger)
    if cfg.MODEL.DEVICE == "cpu":
        keep_freed_memory()
    logger.info(
        f"{comm.get_world_size()} process(es) on {cfg.MODEL.DEVICE}; Detectron2: {detectron2_build()}; output: {folder}"
    )
    default_backend(torch.device(cfg.MODEL.DEVICE).type)  # logs which backend it is, and compiles it if need be
    return logger


def _leave_tracebacks_to_the_file(logger: logging.Logger) -> None:
    """Detectron2 logs the traceback of the error that ends a training; the terminal gets one line instead."""
    for handler in logger.handlers:
        if getattr(handler, "stream", None) is sys.stdout:
            handler.addFilter(lambda record: not record.exc_info)


@contextmanager
def one_clear_error() -> Iterator[None]:
    """Turns errors that a user can mend into one line on the terminal and exit status 1, without a traceback. Of
    several processes, each machine prints the first error of the run once.

    Set DK_DETR_TRACEBACK=1 to see the tracebacks.
    """
    try:
        yield
    except (ValueError, OSError, ImportError, FloatingPointError, RuntimeError) as error:
        if os.getenv("DK_DETR_TRACEBACK"):
            raise
        said = last_words(error, _in_one_line(error))
        if said:
            print(f"error: {said}", file=sys.stderr)
        sys.exit(1)


def _in_one_line(error: Exception) -> str:
    """What an error says, without the traceback of a loader process or of C++. Where it misses a file by a relative
    path, also where relative paths start: in a config file, too, at the working directory."""
    message = str(error).strip() or type(error).__name__
    if "Original Traceback" in message:
        kind, _, rest = message.splitlines()[-1].partition(": ")
        message = rest if rest and " " not in kind else message.splitlines()[-1]
    said = " ".join(message.split("Exception raised from")[0].split())
    if isinstance(error, FileNotFoundError) and not _has_absolute_path(said):
        said = f"{said.rstrip('.')}. Relative paths start at {os.getcwd()}."
    return said


def _has_absolute_path(message: str) -> bool:
    return any(os.path.isabs(word.strip("'\"(),;:")) for word in message.split())
