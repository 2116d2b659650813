"""Where detection queries come from."""

from dk_detr.modeling.queries.first_stage import FirstStage
from dk_detr.modeling.queries.learned import Learned
from dk_detr.modeling.queries.proposals import Mixed, Proposals

QUERIES: dict[str, type[Proposals] | type[Learned]] = {"Proposals": Proposals, "Mixed": Mixed, "Learned": Learned}
"""By their name in MODEL.DETR.QUERIES; built from a config, or from explicit arguments."""

__all__ = ["QUERIES", "FirstStage", "Learned", "Mixed", "Proposals"]
