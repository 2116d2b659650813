"""The keys that ViLD adds: what they mean, their range, and where their values are from.

It shares with DK-DETR: MODEL.VOCABULARY, MODEL.CLIP, MODEL.TEACHER (who teaches), MODEL.TRAINING_EXTENSIONS
(["Distillation"] learns from the teacher, [] does not), and of MODEL.KD: TERMS (["embedding_l1"]), EMBEDDING_L1.WEIGHT
(the paper's w), ANNEAL (of w over training; the paper's is constant), NUM_SLOTS (regions of an image that are taught,
at most), SLOT_FILTERS, DUPLICATES_IOU, BASE_OVERLAP_IOU, MIN_SIDE.
"""

from detectron2.config import CfgNode as CN


def add_config(cfg: CN) -> None:
    """Add the keys, with the published settings as defaults."""
    vild = cfg.MODEL.VILD = CN()
    # "ViLD-text" learns from labels; "ViLD-image" only what the teacher says; "ViLD" both, in one head; "ViLD-ensemble"
    # both, each in a head of its own.
    vild.FORM = "ViLD"
    vild.TEMPERATURE = 0.01  # of the cosine with the text
    # "ViLD-ensemble": weight, in a geometric mean, of the head that is at home: the text head for base words, the
    # image head for novel ones. In [0, 1].
    vild.HOME_WEIGHT = 2 / 3
    # Exponent of the first stage's objectness in the scores, beside what the form itself makes of it; 0 (the paper) or
    # more. Inference only.
    vild.OBJECTNESS = 0.0
