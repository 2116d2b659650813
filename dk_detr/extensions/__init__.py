"""Training extensions: what training adds to a detector and inference does not have.

`extension.py` is the protocol. The table of all of them is in meta_arch/extensions.py.
"""

from dk_detr.extensions.denoising import ContrastiveDenoising, Denoising, DenoisingPlan
from dk_detr.extensions.extension import (
    BuildContext,
    Plan,
    PositionOf,
    TrainingExtension,
    TrainingInputs,
    TrainingOutputs,
)

__all__ = [
    "BuildContext", "ContrastiveDenoising", "Denoising", "DenoisingPlan", "Plan", "PositionOf", "TrainingExtension",
    "TrainingInputs", "TrainingOutputs",
]  # fmt: skip
