"""Engine: what runs a detector: training, evaluation, prediction."""

from dk_detr.engine.setup import one_clear_error, prepare_output, setup_cfg
from dk_detr.engine.train_streams import TRAIN_STREAMS
from dk_detr.engine.trainer import Trainer

__all__ = ["TRAIN_STREAMS", "Trainer", "one_clear_error", "prepare_output", "setup_cfg"]
