"""Where detection queries come from."""

from dk_detr.modeling.queries.content import CONTENTS, Content
from dk_detr.modeling.queries.initial import InitialQueries, Queries
from dk_detr.modeling.queries.learned import Anchors, Learned
from dk_detr.modeling.queries.proposals import Mixed, Proposals
from dk_detr.modeling.queries.whole_image import WholeImage

QUERIES: dict[str, type[Queries]] = {
    "Proposals": Proposals,
    "Mixed": Mixed,
    "Learned": Learned,
    "Anchors": Anchors,
    "WholeImage": WholeImage,
}
"""By their name in MODEL.DETR.QUERIES; built from a config and the number of words of training, or from explicit
arguments."""

__all__ = ["CONTENTS", "QUERIES", "Anchors", "Content", "InitialQueries", "Learned", "Mixed", "Proposals",
    "Queries", "WholeImage",
]  # fmt: skip
