"""What cannot be exported, said before any work."""

from detectron2.config import CfgNode

from dk_detr.language import is_closed

WORDS = ("auto", "input", "fixed")
"""Of --words: an input of the file, or those of the config for good; "auto" is an input where the detector is open."""


def refuse_what_cannot_be_exported(cfg: CfgNode, form: str, words: str = "auto") -> None:
    """Raises ValueError, naming the key, for a config whose detector has no graph in this format.

    Args:
        form: one of `FORMATS`. words: one of `WORDS`.
    """
    kind, detr = cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.DETR
    if kind != "DETR":
        raise ValueError(
            f'MODEL.META_ARCHITECTURE "{kind}" cannot be exported: its two stages are Detectron2\'s, with proposals of '
            'any number. "DETR" can, whatever its parts are.'
        )
    if cfg.MODEL.TEST_FUSION.BASE or cfg.MODEL.TEST_FUSION.NOVEL:
        raise ValueError(
            "MODEL.TEST_FUSION asks CLIP about crops of every image, and CLIP is not exported: set its BASE and NOVEL "
            "to 0.0."
        )
    if words == "input" and is_closed(cfg):
        raise ValueError(
            f'--words input gives the file an input text_embeddings, but MODEL.DETR.CLASSIFIER.NAME '
            f'"{detr.CLASSIFIER.NAME}" knows no embeddings, only the words of its training: use --words fixed.'
        )
    if detr.NMS_IOU is not None and form != "onnx":
        raise ValueError(
            f"MODEL.DETR.NMS_IOU {detr.NMS_IOU} needs an operator that --format {form} does not have: use --format "
            "onnx, or set MODEL.DETR.NMS_IOU null and do NMS yourself."
        )
