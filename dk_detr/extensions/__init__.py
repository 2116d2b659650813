"""Training extensions: what training adds to a detector and inference does not have.

`extension.py` is the protocol. The table of all of them is in meta_arch/extensions.py.
"""

from dk_detr.extensions.denoising import BoxDenoising, ContrastiveDenoising, Denoising, DenoisingPlan
from dk_detr.extensions.extension import (
    BuildContext,
    Plan,
    TrainingExtension,
    TrainingInputs,
    TrainingOutputs,
)
from dk_detr.extensions.one_to_many import OneToMany

__all__ = [
    "BoxDenoising", "BuildContext", "ContrastiveDenoising", "Denoising", "DenoisingPlan", "OneToMany", "Plan",
    "TrainingExtension", "TrainingInputs", "TrainingOutputs",
]  # fmt: skip
