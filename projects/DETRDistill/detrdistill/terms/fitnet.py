"""FitNet: features are to be those of the teacher, everywhere."""

from detectron2.config import CfgNode
from torch import Tensor

from projects.DETRDistill.detrdistill.features import Level, PairedLevels
from projects.DETRDistill.detrdistill.side import Side
from projects.DETRDistill.detrdistill.step import Step
from projects.DETRDistill.detrdistill.terms.term import FeatureTerm


class FitNet(FeatureTerm):
    """Mean square of the difference of features.

    Source: FitNets, Romero et al. (ICLR 2015), its hints, on the levels of a detector.
    """

    def __init__(self, levels: PairedLevels, weight: float = 1.0) -> None:
        super().__init__(levels)
        self.weight = weight

    @classmethod
    def build(cls, kd: CfgNode, student: Side, teacher: Side) -> "FitNet":
        """See `Term`."""
        return cls(PairedLevels.of(kd.TAP, student, teacher), kd.FITNET.WEIGHT)

    def of_level(self, number: int, level: Level, step: Step) -> dict[str, Tensor]:
        """See `FeatureTerm`."""
        return {"": self.weight * level.weighted_squares(level.valid)}
