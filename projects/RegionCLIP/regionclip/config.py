"""The keys that RegionCLIP adds: what they mean, their range, and where their values are from.

It shares MODEL.CLIP (the image tower, a ResNet; its WEIGHTS start the training), MODEL.VOCABULARY,
MODEL.BACKBONE.FREEZE_AT (1: the stem; 2, as in the release: the first stage, too), MODEL.MASK_ON; and of Detectron2's
MODEL.ROI_HEADS, ROI_BOX_HEAD.BBOX_REG_WEIGHTS and ROI_MASK_HEAD.
"""

from detectron2.config import CfgNode as CN


def add_config(cfg: CN) -> None:
    """Add the keys, with the release's settings as defaults."""
    own = cfg.MODEL.REGIONCLIP = CN()
    # Which boxes are recognised: "Proposals" of the localizer, or the "GroundTruth" of the data set (in evaluation, to
    # know how well regions are recognised).
    own.REGIONS = "Proposals"
    # Boxes of detections: "Refined" by the head, or "AsProposed" (zero-shot, where nothing was trained to refine).
    own.BOXES = "Refined"
    own.TEMPERATURE = 0.01  # of the cosine with the text, above 0
    own.BACKGROUND_WEIGHT = 1.0  # of regions that show nothing in the loss; the release has 0.2 on COCO, 0.8 on LVIS
    # Exponent of 1 less the probability of the right word, which weighs a region down; 0 for none. With it the loss is
    # a mean over regions, without it over their weights.
    own.FOCAL_EXPONENT = 0.0
    # What the localizer's objectness does to scores. "none"; "sigmoid": the geometric mean of both probabilities;
    # "raw_logit": as the release computes it, with the logit, without regions of a negative one, and scores beyond 1.
    own.FUSION = "none"
    own.NMS = "Hard"  # within each word: "Hard", or "Soft", Gaussian (the release's evaluation of trained detectors)

    own.LOCALIZER = CN()
    # Config file of the network that proposes boxes: META_ARCHITECTURE "ProposalNetwork", or a detector of this project
    # with a first stage. It is frozen.
    own.LOCALIZER.CONFIG = ""
    own.LOCALIZER.OPTS = []  # KEY VALUE pairs for it, such as ["MODEL.RPN.NMS_THRESH", "0.9"]
    own.LOCALIZER.WEIGHTS = ""  # its own weights; not needed where MODEL.WEIGHTS holds them, too
    own.LOCALIZER.COUNT = 1000  # boxes of an image, at most
    own.LOCALIZER.NMS_IOU = 0.7  # of a detector of this project, whose first stage does no NMS

    # MODEL.META_ARCHITECTURE "RegionCLIPPretraining", DATALOADER.TRAIN_STREAM "ImageText".
    own.PRETRAINING = CN()
    # The pairs: a captions file, as COCO's, and the folder of its images; or tar files, as "cc3m/*.tar".
    own.PRETRAINING.CAPTIONS = ""
    own.PRETRAINING.IMAGES = ""
    own.PRETRAINING.SHARDS = ""
    own.PRETRAINING.POOL = ""  # embeddings of concepts, a vocabulary file
    own.PRETRAINING.REGIONS = 300  # of an image, the localizer's best
    own.PRETRAINING.SAMPLED = 100  # of these, at random
    own.PRETRAINING.THRESHOLD = 0.1  # regions learn whose highest probability of the teacher is above, in [0, 1)
