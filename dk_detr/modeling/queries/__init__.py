"""Where detection queries come from."""

from dk_detr.modeling.queries.proposals import Proposals

__all__ = ["Proposals"]
