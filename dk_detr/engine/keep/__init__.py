"""Keep: fine-tune a detector of any words, and keep those that it knew. DATASETS.KEEP measures, SOLVER.KEEP keeps."""

from dk_detr.engine.keep.data import use_kept_data
from dk_detr.engine.keep.interpolation import Interpolation, interpolate, interpolated, interpolation_from_config
from dk_detr.engine.keep.keeper import Keeper
from dk_detr.engine.keep.keepers import KEEPERS, freeze_what_is_kept, refuse_bad_keep, use_keepers
from dk_detr.engine.keep.report import SHOWN, changes_of, evaluated_before, keep_evaluation_before

__all__ = [
    "KEEPERS", "SHOWN", "Interpolation", "Keeper", "changes_of", "evaluated_before", "freeze_what_is_kept",
    "interpolate", "interpolated", "interpolation_from_config", "keep_evaluation_before", "refuse_bad_keep",
    "use_keepers", "use_kept_data",
]  # fmt: skip
