"""Modeling: the detector in parts. Nothing here knows that it is being taught."""

from dk_detr.modeling.classifiers import CosineText
from dk_detr.modeling.neck import ChannelMapper
from dk_detr.modeling.postprocess import to_instances
from dk_detr.modeling.queries import QUERIES, FirstStage, Mixed, Proposals
from dk_detr.modeling.transformer import Decoder, DecoderLayer, Encoder, EncoderLayer

__all__ = [
    "QUERIES", "ChannelMapper", "CosineText", "Decoder", "DecoderLayer", "Encoder", "EncoderLayer", "FirstStage",
    "Mixed", "Proposals", "to_instances",
]  # fmt: skip
