"""The keys that the distillation of backbones adds: what they mean, their range, and where their values are from.

It shares MODEL.BACKBONE, RESNETS, TIMM (the backbone), MODEL.DETR.CLASSIFIER.{NAME, TEMPERATURE} ("Linear", or
"CosineText" with the words' embeddings), MODEL.VOCABULARY, MODEL.CLIP and DATASETS with the detectors.
"""

from detectron2.config import CfgNode as CN


def add_config(cfg: CN) -> None:
    """Add the keys. Without TERMS a classifier learns from labels alone."""
    own = cfg.MODEL.BACKBONE_KD = CN()
    own.FEATURE = ""  # the backbone's map that is pooled; "" for the last
    own.EMBEDDING = 512  # width of the embedding of a crop, which classifier and "embeddings" see
    own.ACTIVATION = "softmax"  # of labels and "logits": "softmax", or "sigmoid", a decision for each word

    own.CROP_SIDE = 224  # pixels, a square
    own.CROP_CONTEXT = 1.2  # the box is enlarged by this, in training and in evaluation
    own.CROP_JITTER = 0.2  # in training: size and place vary by up to this share of the box, in [0, 1)

    own.LABEL_WEIGHT = 1.0  # of the cross-entropy; 0: no label is looked at, and the teacher's classifier is taken over
    # What the student takes over, of "logits", "global_local_logits", "dense_relations", "embeddings".
    own.TERMS = []

    # Hinton et al., 2015. The published total is (1 - α) CE + α T² KL: LABEL_WEIGHT is 1 - α here.
    own.LOGITS = CN()
    own.LOGITS.WEIGHT = 0.9
    own.LOGITS.TEMPERATURE = 4.0  # of a softmax; a sigmoid has none

    # Kim et al., ICCV 2021, ResNet110 -> 20 on CIFAR-100: LABEL_WEIGHT 0.3.
    own.GLOBAL_LOCAL_LOGITS = CN()
    own.GLOBAL_LOCAL_LOGITS.GLOBAL_WEIGHT = 0.7
    own.GLOBAL_LOCAL_LOGITS.LOCAL_WEIGHT = 1.0
    own.GLOBAL_LOCAL_LOGITS.CELLS = 2  # the map is cut into CELLS x CELLS
    own.DENSE_RELATIONS = CN()
    own.DENSE_RELATIONS.WEIGHT = 500.0
    own.DENSE_RELATIONS.CELLS = 2

    # ReFO, Li et al., CVPR 2023. The paper's numbers were not at hand: the weight is a choice, to be swept.
    own.EMBEDDINGS = CN()
    own.EMBEDDINGS.WEIGHT = 1.0

    own.TEACHER = CN()
    own.TEACHER.CONFIG = ""  # a config of this project; or "CLIP", that of MODEL.CLIP
    own.TEACHER.OPTS = []  # KEY VALUE pairs for it
    own.TEACHER.WEIGHTS = ""  # where there are none, projects/BackboneDistillation/train.py trains it first
    own.TEACHER.TEMPERATURE = 0.01  # of CLIP's cosines
