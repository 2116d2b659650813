"""AdaMixer (CVPR 2022): a decoder that samples features in space and scale, and mixes them as each query says."""

from dk_detr.modeling.adamixer.decoder import AdaMixer

__all__ = ["AdaMixer"]
