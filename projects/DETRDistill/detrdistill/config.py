"""The keys that DETRDistill adds: what they mean, their range, and where their values are from.

"DETRDistill" in MODEL.TRAINING_EXTENSIONS learns from the teacher; any other extension may stand beside it.
"""

from detectron2.config import CfgNode as CN


def add_config(cfg: CN) -> None:
    """Add the keys. Where the paper gives no number, the defaults are ours; README.md says which."""
    teacher = cfg.MODEL.TEACHER_DETECTOR = CN()
    # File of the teacher's own config: any detector of META_ARCHITECTURE "DETR"; or "self": this config, with the words
    # of WEIGHTS.
    teacher.CONFIG = ""
    teacher.WEIGHTS = ""  # its weights
    teacher.DTYPE = "auto"  # what it computes in: "float32", "bfloat16", or "auto", bfloat16 on a GPU

    kd = cfg.MODEL.DETRDISTILL = CN()
    # What is learned: "hungarian_logits", "target_aware_features" and "query_prior_assignment" are the paper's three;
    # "contrastive_queries" is in its release only. Rivals: "fitnet", "mgd", "fgd", "kd_detr". Ours:
    # "query_embeddings", for text classifiers.
    kd.TERMS = ["hungarian_logits", "target_aware_features", "query_prior_assignment"]
    # What terms of features compare: "memory", what the encoder gives, as in the paper's figure 3; or "neck", what it
    # is given, as in the release.
    kd.TAP = "memory"
    # Probability of the teacher's first stage, in (0, 1], from which its boxes are objects for the student's first
    # stage to propose, where nothing is labelled (ours); None for none.
    kd.PSEUDO_OBJECTS = None
    _add_terms_of_the_paper(kd)
    _add_rivals(kd)
    kd.QUERY_EMBEDDINGS = CN()
    kd.QUERY_EMBEDDINGS.WEIGHT = 1.0  # of 1 less the cosine, 0 or more


def _add_terms_of_the_paper(kd: CN) -> None:
    logits = kd.HUNGARIAN_LOGITS = CN()
    logits.VARIANT = "paper"  # or "release": one matching of all predictions with all, classes included
    logits.COST = CN({"CLASS": 1.0, "L1": 5.0, "GIOU": 2.0})  # of matching; 0 or more
    logits.WEIGHTS = CN({"CLASS": 1.0, "L1": 5.0, "GIOU": 2.0})  # of the losses; 0 or more
    # "paper": weights of the boxes, and of the classes, of predictions that are no object; 0 or more.
    logits.REST = 1.0
    logits.REST_CLASS = 0.0

    features = kd.TARGET_AWARE_FEATURES = CN()
    features.VARIANT = "paper"  # or "release": the best scores of the teacher make a mask
    features.WEIGHT = 1.0  # the paper's λ2, 0 or more
    features.GAMMA = 0.5  # "paper": its γ in [0, 1], the share of the score in a query's quality

    queries = kd.QUERY_PRIOR_ASSIGNMENT = CN()
    queries.VARIANT = "paper"  # by the teacher's assignment; or "release": matched anew
    queries.WEIGHT = 1.0  # the paper's λ3, 0 or more
    # Reference points of the teacher's queries, where they are read off positional codes: by the "teacher", or by the
    # "student" (the release).
    queries.REFERENCE = "teacher"

    kd.CONTRASTIVE_QUERIES = CN()
    kd.CONTRASTIVE_QUERIES.WEIGHT = 0.2
    kd.CONTRASTIVE_QUERIES.TEMPERATURE = 0.07  # above 0


def _add_rivals(kd: CN) -> None:
    kd.FITNET = CN()
    kd.FITNET.WEIGHT = 1.0  # of the mean square, 0 or more

    kd.MGD = CN()
    kd.MGD.WEIGHT = 0.00002  # of the sum of squares of an image (one-stage detectors in MGD's paper)
    kd.MGD.MASKED = 0.65  # share of cells that the student must make up, in [0, 1)

    kd.FGD = CN()
    # Sums over an image, as FGD's release has them for anchor-free detectors: of the foreground, of the background, of
    # the attention maps, of the relation of cells.
    kd.FGD.FOREGROUND = 0.0016
    kd.FGD.BACKGROUND = 0.0008
    kd.FGD.ATTENTION = 0.0008
    kd.FGD.RELATION = 0.000008
    kd.FGD.TEMPERATURE = 0.8  # of the attention maps, above 0

    kd.KD_DETR = CN()
    kd.KD_DETR.POINTS = ["specific", "general"]  # which queries both answer: the teacher's own, and random ones
    kd.KD_DETR.LAYERS = "each"  # a layer learns from its own layer; or "last": all learn from the teacher's last
    kd.KD_DETR.CLASSES = "softmax"  # over all classes, or "sigmoid" of each
    kd.KD_DETR.WEIGHTS = CN({"CLASS": 2.0, "L1": 5.0, "GIOU": 2.0})
    kd.KD_DETR.TEMPERATURE = 10.0  # of the softmax, above 0
