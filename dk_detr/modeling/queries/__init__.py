"""Where detection queries come from."""

from dk_detr.modeling.queries.proposals import FirstStage, Mixed, Proposals

QUERIES: dict[str, type[Proposals]] = {"Proposals": Proposals, "Mixed": Mixed}  # by their name in MODEL.DETR.QUERIES

__all__ = ["QUERIES", "FirstStage", "Mixed", "Proposals"]
