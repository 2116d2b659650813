"""The four forms of ViLD: what each learns."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Form:
    """What a form is made of.

    Attributes:
        learns_labels: a softmax over base words and background.
        learns_image_embeddings: the teacher's embeddings of regions.
        num_heads: 1, or 2 where each of them has a head of its own.
    """

    learns_labels: bool
    learns_image_embeddings: bool
    num_heads: int = 1


FORMS = {
    "ViLD-text": Form(True, False),
    "ViLD-image": Form(False, True),
    "ViLD": Form(True, True),
    "ViLD-ensemble": Form(True, True, num_heads=2),
}
"""By their name in MODEL.VILD.FORM."""
