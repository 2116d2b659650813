"""Every configuration key that this project adds to Detectron2's: what it means, its range, where its value is from."""

from detectron2.config import CfgNode as CN


def add_dk_detr_config(cfg: CN) -> None:
    """Add the keys, with the published settings of DK-DETR (ICCV 2023) as defaults, to a Detectron2 config."""
    # Packages outside of dk_detr that a config file calls for, such as ["projects.ViLD.vild"]: they add parts and keys.
    # Named in a config file, not on the command line.
    cfg.PROJECTS = []
    # To fine-tune: parts whose weights MODEL.WEIGHTS may have in another shape, or not at all, such as ["classifier",
    # "queries"] for other classes and another number of queries. What of them fits is taken, the rest starts new and is
    # listed in the log. Training reads it once, at its start; evaluation and --resume do not.
    cfg.MODEL.NEW_PARTS = []
    # What training adds to the detector: "Denoising" (DN-DETR), "ContrastiveDenoising" (DINO), "BoxDenoising" (ours),
    # "OneToMany" (H-DETR), "Distillation" (DK-DETR, see MODEL.KD), and those of projects. One kind of denoising, any of
    # the others together; a detector that is built to detect has none.
    cfg.MODEL.TRAINING_EXTENSIONS = []
    # A file of tools/calibrate.py: "CosineText" and the term "semantic" then take temperature and offset from it, in
    # place of CLASSIFIER.TEMPERATURE, LOGIT_BIAS and KD.SEMANTIC.TEMPERATURE, OFFSET, which stay at their defaults. For
    # training only: weights bring the numbers along, and inference does not read the file. "": the paper's form.
    cfg.MODEL.CALIBRATION = ""
    _add_detr(cfg)
    _add_timm(cfg)
    _add_language(cfg)
    _add_distillation(cfg)
    _add_data(cfg)
    _add_training(cfg)


def _add_detr(cfg: CN) -> None:
    detr = cfg.MODEL.DETR = CN()
    detr.IN_FEATURES = ["res3", "res4", "res5"]  # backbone maps, the finest first; others are not computed
    detr.NUM_EXTRA_LEVELS = 1  # coarser maps beyond the backbone's, each half the size of the one before
    detr.CHANNELS = 256  # C, a multiple of 32 and of NUM_HEADS
    detr.NECK_NORM = "GN"  # after the convolutions that bring maps to C; "SharedGN" (AdaMixer); or "none" (DETR)
    # Pixels, side of the square that every image is padded to, on the right and below, in training and evaluation.
    # Backbone and neck see all of it, and queries none of the padding: the release of DK-DETR (1024). 0: a batch of
    # training is padded to its largest image, and in evaluation nothing sees padding, so that it changes no detection.
    detr.PADDED_SIZE = 0

    # What detection queries start as: "Proposals", position and content from the boxes of the first stage (the paper);
    # "Mixed", place from the boxes, content learned (DINO; better in the mini world); "Learned", content, position and,
    # unless attention is dense, a point, the same for every image (DETR, Conditional, one-stage Deformable DETR);
    # "Anchors", content and box, the same for every image (DAB-DETR); "WholeImage", content, at the whole image
    # (AdaMixer).
    detr.QUERIES = "Proposals"
    detr.NUM_QUERIES = 300  # Q, also the number of proposals
    # Of "Learned" and "Anchors": a vector for each query ("Learned"), one for all ("Common", DN-DETR), "Zero" (DETR).
    # "WholeImage" has its own.
    detr.CONTENT = "Learned"
    # The first stage of "Proposals" and "Mixed". "ClassAgnostic": each token says how sure it is of an object, and all
    # tokens are supervised (the paper). "ClassAware": each token has a logit for each word of training, and only the
    # chosen tokens are supervised (DINO). It proposes nothing but these words, so that it is for closed detectors only.
    detr.FIRST_STAGE = "ClassAgnostic"
    # What a layer is told about the places of queries: "Given", what "Learned", "Proposals" and "Mixed" bring; or from
    # their boxes, "SineAnchors" (DINO), "ScaledSineAnchors" by their content (DAB-Deformable-DETR). For "Conditional"
    # attention "ConditionalSine" (Conditional DETR) or "ModulatedSineAnchors" (DAB-DETR).
    detr.POSITION = "Given"
    # "DETR": the loop that the keys below describe. "AdaMixer": stages that sample and mix (modeling/adamixer). These
    # read ADAMIXER, DECODER_LAYERS, NUM_HEADS, FFN_CHANNELS, DROPOUT (release: 0.0), ACTIVATION, ATTENTION_BACKEND, and
    # want BOXES "ScaleRatio", HEADS "PerLayer". A project may add another decoder to modeling/decoder.py.
    detr.DECODER = "DETR"
    # Of "AdaMixer": groups of channels, points that a query samples for each, and points that it mixes them to.
    detr.ADAMIXER = CN({"GROUPS": 4, "POINTS": 32, "OUT_POINTS": 128})
    # Where a decoder layer's boxes start from: "Iterative", those of the layer before; "LookForwardTwice", with their
    # gradient (DINO, DAB-DETR); "FromReference", always the same; "Direct", nothing (DETR).
    detr.REFINEMENT = "Iterative"
    # What a box head's numbers do to that start: "Logits" (the series), or "ScaleRatio" of boxes (AdaMixer).
    detr.BOXES = "Logits"
    detr.HEADS = "PerLayer"  # box heads and class projections: "PerLayer", each its own, or "Shared", one for all

    _add_extras(detr)
    _add_transformer(detr)
    _add_classes(detr)


def _add_extras(detr: CN) -> None:
    """What a detector can have beside boxes and words, and what trains it more."""
    # How well a box fits its object, whatever that is: learned in the "decoder", where it multiplies all scores by its
    # power EXPONENT, and in the "first_stage", where the geometric mean with objectness ranks the proposals.
    detr.QUALITY = CN({"PLACES": [], "WEIGHT": 0.5, "EXPONENT": 1.0})

    # With MODEL.MASK_ON, how masks are drawn: "Dynamic" (SOIT), each query brings the weights of a small layer over the
    # memory's finest level, which must be of stride 8 or 4. "": boxes alone. MASK_ON False leaves the head out, too.
    detr.MASKS = ""

    # IoU above which the worse of two detections of a word goes; None for no NMS, as DETRs are published. Queries that
    # a teacher trains may see one object several times: no label tells them to give way.
    detr.NMS_IOU = None

    # Of the training extensions "Denoising", "BoxDenoising", "ContrastiveDenoising": see extensions/denoising.py. Of
    # "OneToMany": further queries, and how many of them answer for each object (extensions/one_to_many.py).
    detr.DENOISING = CN({"GROUPS": 5, "LABEL_NOISE": 0.2, "BOX_NOISE": 0.4})
    detr.BOX_DENOISING = CN({"GROUPS": 5, "BOX_NOISE": 0.4})
    detr.CONTRASTIVE_DENOISING = CN({"QUERIES": 100, "LABEL_NOISE": 0.25, "BOX_NOISE": 1.0})
    detr.ONE_TO_MANY = CN({"QUERIES": 300, "COPIES": 6})


def _add_transformer(detr: CN) -> None:
    # "Deformable", over all levels; or, over one level, "Dense" (DETR), and "Conditional" in the decoder.
    detr.ENCODER_ATTENTION = "Deformable"
    detr.DECODER_ATTENTION = "Deformable"
    detr.NUM_HEADS = 8
    detr.NUM_POINTS = 4  # sampled by each head on each level
    detr.ENCODER_LAYERS = 6
    detr.DECODER_LAYERS = 6
    detr.FFN_CHANNELS = 1024
    detr.DROPOUT = 0.1
    detr.ACTIVATION = "relu"  # of feed-forward layers; or "prelu" (DAB-DETR)
    detr.DECODER_NORM = "none"  # of what each layer says, before the heads; or "LN" (DETR, Conditional, DAB, DN, DINO)
    # Sine codes of the cells of feature maps: temperature (20 in DAB-DETR, DINO), and the place of the first cell, in
    # cells: 0.5, its centre (Deformable and DAB-Deformable-DETR), or 1.0 (all others).
    detr.SINE = CN({"TEMPERATURE": 10000.0, "FIRST_CELL": 0.5})
    detr.ENCODER_POSITION = "Sine"  # these codes; or "ScaledSine" by what tokens know (DAB-DETR)
    detr.ANCHOR_SIZE = 0.05  # side of first-stage anchors on the finest level, share of the image; doubles by level
    detr.ATTENTION_BACKEND = "auto"  # or a name that tools/doctor.py lists
    # Parts of "backbone", "encoder", "decoder" whose layers are computed again in backward: less memory, more time.
    detr.CHECKPOINTED = []
    # Of "encoder", "decoder", "teacher" (CLIP's image encoder): their layers go through torch.compile, which takes a
    # minute at first; where it does not work they stay as they are. Meant for GPUs: on CPUs it gains nothing over our
    # kernels, and dropout is slower.
    detr.COMPILED = []


def _add_classes(detr: CN) -> None:
    classifier = detr.CLASSIFIER = CN()
    # Open, for any words: "CosineText", a sigmoid of the similarity with text embeddings (DK-DETR). Those of ViLD:
    # "CosineTextBackground", a softmax over the words and a learned background; "CosineTextObjectness", which learns
    # from the teacher only, no labels, and is multiplied by the first stage's objectness; "CosineTextEnsemble", a
    # "CosineTextBackground" with separate projections for labels and for the teacher.
    # Closed, for the words of training: "Linear", a sigmoid for each; "LinearBackground", a softmax over the words and
    # "no object" (DETR). Of MODEL.VOCABULARY.TEST they take the names alone.
    classifier.NAME = "CosineText"
    classifier.TEMPERATURE = 0.05  # of the cosine with the text, in all but "Linear…"; fixed; 0.01 in ViLD
    classifier.LOGIT_BIAS = None  # a fixed number added to all logits, in "CosineText"; None in the paper

    # In "CosineText", exponents of what multiplies scores, 0.0 for nothing: the first stage's objectness, for novel and
    # for base words; and the word's share in a softmax over the words to detect: of two words for one object the worse
    # one gets less. Read at inference only, so that they can be chosen after training.
    classifier.NOVEL_OBJECTNESS = 0.0
    classifier.BASE_OBJECTNESS = 0.0
    classifier.WORD_SHARE = 0.0
    # λ of the geometric mean in "CosineTextEnsemble", in [0, 1]: the weight of the projection that learns labels for
    # base words, and of the one that learns from the teacher for novel words.
    classifier.HOME_WEIGHT = 2 / 3

    loss = detr.LOSS = CN()
    # Class loss of the decoder layers; the first stage's is always "Focal". "Focal" is for a sigmoid:
    # "CosineText" and "Linear". "CrossEntropy" (DETR) is for a softmax: "LinearBackground", "CosineTextBackground" and
    # "CosineTextEnsemble". "BoxesOnly" learns and matches no labels: for "CosineTextObjectness".
    loss.CLASS = "Focal"
    loss.NO_OBJECT_WEIGHT = 0.1  # in "CrossEntropy", of queries that match nothing, beside 1 of those that do
    # In "Focal", the words of training that queries of an image learn not to be. The word of its object a matched query
    # always learns; matching and the first stage have all words. "All". "Federated" (Detic): in a step the words of the
    # batch's objects, and others drawn until there are NUM_WORDS, with a probability proportional to the word's number
    # of training images to the power POWER. "OtherClusters" (LaMI-DETR): all but unlabelled words in the cluster of a
    # word that is labelled in the image; for "CosineText".
    loss.NEGATIVES = "All"
    loss.FEDERATED = CN({"NUM_WORDS": 50, "POWER": 0.5})
    # A JSON: a list of categories with "name" and "image_count", as Detic ships for LVIS, or an annotation file whose
    # categories have these. "": all words are equally likely.
    loss.FEDERATED.COUNTS = ""
    loss.CLUSTERS = CN({"NUMBER": 128})  # of the text embeddings of the words of training
    # What the term L1 compares, in shares of the image: "cxcywh" (the DETRs), or "xyxy" (AdaMixer).
    loss.L1 = "cxcywh"
    # Weights of the terms (criterion/terms.py) in the loss of each decoder layer; of the first stage; and in the cost
    # that matching makes lowest.
    loss.WEIGHTS = CN({"CLASS": 2.0, "L1": 5.0, "GIOU": 2.0})
    loss.FIRST_STAGE_WEIGHTS = CN({"CLASS": 2.0, "L1": 5.0, "GIOU": 2.0})
    loss.MASK_WEIGHTS = CN({"DICE": 8.0, "BCE": 2.0})  # of the masks of matched queries, in each decoder layer
    detr.MATCHER = CN({"CLASS": 2.0, "L1": 5.0, "GIOU": 2.0})


def _add_timm(cfg: CN) -> None:
    # MODEL.BACKBONE.NAME "build_timm_backbone": any image model of timm. Its maps are called by their strides, as those
    # of ResNets: 4 "res2", 8 "res3", 16 "res4", 32 "res5".
    own = cfg.MODEL.TIMM = CN()
    own.NAME = "convnext_tiny"  # of timm.list_models()
    # A file of weights, "hub" to download the model's own, or "" for new ones. "clip", for MODEL.BACKBONE.NAME
    # "build_clip_backbone" alone: those of the image tower of MODEL.CLIP.
    own.PRETRAINED = ""
    own.OUT_INDICES = []  # maps that it gives, counted from 0; [] for all that timm knows of
    own.FREEZE_AT = 0  # the first maps, and what makes them, do not train
    own.NORM = "own"  # or "FrozenBN": batch norms keep their statistics


def _add_language(cfg: CN) -> None:
    vocabulary = cfg.MODEL.VOCABULARY = CN()
    # The words to detect; a path, as all in configs relative to the working directory. One of
    # - an .npz of tools/build_vocabulary.py;
    # - a bare .npy or .pt matrix as Detic and DK-DETR ship it: a row for each category of LVIS v1 (1203), COCO (80),
    #   VOC (20) or the one data set of DATASETS.TEST, in the order of their ids;
    # - a checkpoint (.pth) of this project: the words of its training;
    # - for closed classifiers, which take the names alone, also "coco", "lvis" (rare = novel) or "voc".
    vocabulary.TEST = ""
    vocabulary.TRAIN = ""  # the words with boxes in training; "" for the base words of TEST
    # Of the test sets that need another file than TEST, say ["voc_2007_test=voc.npz", "coco_2017_val=coco.npz"]. Names
    # decide which rows are taken, not their order; those of a bare matrix are the categories of the data set.
    vocabulary.OF_DATASETS = []
    vocabulary.PROMPT = "vild"  # for names that are encoded on the fly: "name", "single", "vild", "regionclip"

    # Encodes new words, and teaches. Words of another CLIP are refused, also where only their weights are others.
    clip = cfg.MODEL.CLIP = CN()
    clip.LIBRARY = "open_clip"  # or "clip", OpenAI's package (pip install clip-anytorch)
    clip.ARCHITECTURE = "ViT-B-32-quickgelu"  # a name of the library, or the path of an open_clip .json config
    clip.WEIGHTS = "openai"  # a tag that the library downloads, a checkpoint file, or "" for random weights (tests)
    # An image tower in the place of its own: a checkpoint of RegionCLIP's pretraining or detector; "" for its own.
    clip.IMAGE_WEIGHTS = ""


    # At test, scores of detections are fused with those of CLIP on their crops (MODEL.CLIP, TEACHER.CROP_SCALES):
    # score^(1-w) · p^w, w in [0, 1] for words that were trained, and for others. 0 and 0: CLIP is not asked.
    fusion = cfg.MODEL.TEST_FUSION = CN()
    fusion.BASE = 0.0
    fusion.NOVEL = 0.0
    fusion.TEMPERATURE = 0.01  # of CLIP's softmax over the words, above 0


def _add_distillation(cfg: CN) -> None:
    teacher = cfg.MODEL.TEACHER = CN()
    # "CLIPCrops" encodes crops of live proposals; "CLIPRegions" looks at each image once and cuts proposals out of what
    # it has seen, for which MODEL.CLIP must be a ResNet; "EmbeddingBank" looks up what BANK holds.
    teacher.NAME = "CLIPCrops"
    teacher.BANK = ""  # folder that tools/build_embedding_bank.py wrote
    teacher.BANK_REGIONS = 100  # regions that are read of an image, the best first; MODEL.KD.NUM_SLOTS of them teach
    teacher.DTYPE = "auto"  # of CLIP's image encoder: "float32", "bfloat16"; "auto" is the latter on a GPU
    teacher.CROP_SCALES = [1.0]  # of proposal boxes; [1.0, 1.5] adds context, averaged, as ViLD does

    kd = cfg.MODEL.KD = CN()
    kd.TERMS = []  # losses: "semantic" (SKD), "relational" (RKD), "embedding_l1" (ViLD)
    # Which queries are taught. "Auxiliary": one for each detection query (the paper). "SelectedAuxiliary": only for the
    # regions that are distilled; these are selected before decoding then, so that SLOT_FILTERS cannot have "unmatched",
    # REFERENCE is "stay", and "EmbeddingBank" can teach. "Detection": the detection queries (the paper's ablation).
    # "ROIHead": none; a head that reads the regions from the encoder's memory is taught, with the selection of
    # "SelectedAuxiliary", and is asked for the novel words at inference (ours).
    kd.QUERIES = "Auxiliary"
    kd.ATTENDS_TO = ["auxiliary"]  # groups that auxiliary queries see in self-attention: "auxiliary", "detection"
    kd.REFERENCE = "follow"  # "follow" the refined boxes of the detection queries, or "stay" at the proposals
    kd.LAYERS = "last"  # decoder layers that are taught: "last" or "all"
    kd.NUM_SLOTS = 20  # distilled queries of an image, at most
    kd.SLOT_FILTERS = ["unmatched"]  # and "base_overlap", "duplicates": see distillation/slots.py
    kd.BASE_OVERLAP_IOU = 0.5  # of "base_overlap"
    kd.DUPLICATES_IOU = 0.7  # of "duplicates"
    kd.MIN_SIDE = 4.0  # pixels of the network's input

    # What detection queries learn where nothing is matched. "Hard": that they are no word. "Soft": where the teacher
    # looked, that only as far as the teacher does not believe in the word; this needs MODEL.CALIBRATION, since without
    # an offset such a teacher believes in every word.
    kd.NEGATIVES = "Hard"
    # Belief of the teacher in some word of training, in [0, 1], from which a region that covers no labelled object is
    # one more object for the first stage to propose; None for none (the paper). Needs what "Soft" negatives need, and
    # "duplicates" in SLOT_FILTERS, for one object must not become two.
    kd.PSEUDO_OBJECTS = None

    kd.SEMANTIC = CN({"WEIGHT": 1.0, "TEMPERATURE": 0.05, "OFFSET": 0.0})  # (cosine - OFFSET) / TEMPERATURE
    kd.RELATIONAL = CN({"WEIGHT": 1.0, "TEMPERATURE": 0.1})
    kd.RELATIONAL.SCOPES = ["image", "batch"]  # regions of each image; of the whole batch of all workers
    kd.RELATIONAL.DIRECTION = "teacher_student"  # KL(teacher ‖ student), or "student_teacher"
    kd.EMBEDDING_L1 = CN({"WEIGHT": 0.5})  # ViLD's weight for R50
    # A factor on the weights of all terms that changes over training, from FROM to TO, by iteration / SOLVER.MAX_ITER:
    # "Linear", or "Cosine" (half a cosine, as in DeCo-DETR). "Constant" is none, with FROM and TO 1.0. Of at least 0;
    # FROM 0.0 warms up. It is `kd_weight` in metrics.json; outside of a training loop it is FROM.
    kd.ANNEAL = CN({"CURVE": "Constant", "FROM": 1.0, "TO": 1.0})


def _add_data(cfg: CN) -> None:
    # Annotation files of your own, in COCO's or LVIS's format, and the folders of their images. Where they are named,
    # DATASETS.TRAIN, DATASETS.TEST and MODEL.VOCABULARY follow from them; see configs/custom_data/README.md.
    own = cfg.DATASETS.CUSTOM = CN({"TRAIN_JSON": "", "TRAIN_IMAGES": "", "VAL_JSON": "", "VAL_IMAGES": ""})
    # Names that training must not see: "x,y" or ["x", "y"], [] for none; None (null in a file) for those without a box
    # in TRAIN_JSON.
    own.NOVEL = None

    # To fine-tune a detector of any words: data sets that are tested beside DATASETS.TEST, before the first iteration,
    # at each evaluation and after the last, such as ("lvis_v1_val",). Their words are those of OF_DATASETS, else those
    # of MODEL.VOCABULARY.TEST, also where DATASETS.CUSTOM brings other words to train. (): none.
    cfg.DATASETS.KEEP = ()

    # What a training step learns from: "Detection", the images and boxes of DATASETS.TRAIN; or what a package of
    # PROJECTS adds to TRAIN_STREAMS, such as images with captions (see engine/train_streams.py).
    cfg.DATALOADER.TRAIN_STREAM = "Detection"


def _add_training(cfg: CN) -> None:
    # Or "ShortestEdge", Detectron2's resize and flip; "CropOrNot", the same after a crop of every other image (DETR).
    cfg.INPUT.AUGMENTATION = "LargeScaleJitter"
    cfg.INPUT.JITTER_SIZE = 1024  # pixels, side of the square that images are cropped to
    cfg.INPUT.JITTER_SCALE = [0.1, 2.0]  # images are first resized to fit JITTER_SIZE times a number drawn from here
    # Training samples that show no object of the training words, say after a crop: "Keep"; or "Redraw" another image
    # in their place (DK-DETR).
    cfg.INPUT.EMPTY_SAMPLES = "Keep"
    # Detectron2's own: DATALOADER.FILTER_EMPTY_ANNOTATIONS leaves out images without boxes. DATALOADER.SAMPLER_TRAIN is
    # "TrainingSampler"; "RepeatFactorTrainingSampler"; or "ClassBalancedTrainingSampler", the same with repeats of an
    # image rounded up, where the former draws the fraction (mmdet's ClassBalancedDataset: DK-DETR).

    cfg.SOLVER.OPTIMIZER = "AdamW"  # or "SGD", with SOLVER.MOMENTUM
    cfg.SOLVER.BACKBONE_MULTIPLIER = 0.1  # of the learning rate
    cfg.SOLVER.SAMPLING_MULTIPLIER = 0.1  # of the learning rate of deformable attention's offsets and learned points
    # The newest are kept, and one more until an iteration with finite losses follows; model_final.pth does not count.
    cfg.SOLVER.CHECKPOINTS_TO_KEEP = 3

    # How fine-tuning keeps the words that MODEL.WEIGHTS know (engine/keep). "classifier_projection": the linear layers
    # of the text classifier do not train. "interpolation": weights between start and now are evaluated, and loaded
    # from checkpoints (WiSE-FT). "distillation": the start teaches; of projects/DETRDistill.
    cfg.SOLVER.KEEP = []
    cfg.SOLVER.KEEP_ALPHA = 0.5  # of "interpolation", in [0, 1]: the share of the tuned weights; 0.5 in WiSE-FT

    # Mixed precision, with SOLVER.AMP.ENABLED: "float16", on a GPU, with a gradient scaler; or "bfloat16", without one,
    # on a GPU or CPU. Evaluation stays in full precision, as in Detectron2.
    cfg.SOLVER.AMP.DTYPE = "float16"
    # Gradient accumulation: a batch goes through the model in this many equal parts, one after the other, in the memory
    # of one; then the optimizer steps once. Detection losses are normalised as for the whole batch. What differs from
    # 1: BatchNorm's statistics and the padding are those of a part, dropout draws other numbers, "Federated" negatives
    # are drawn for each part, and the terms of MODEL.KD are means over parts as they are over workers: "relational" in
    # "batch" compares the regions of one part of all workers.
    cfg.SOLVER.ACCUMULATE = 1
    # Decay of an exponential moving average of the weights, say 0.9997; None for no average. Where there is one, it is
    # evaluated in place of the last weights. Checkpoints hold both, and only --resume loads the last weights.
    cfg.SOLVER.EMA_DECAY = None

    # Class-agnostic recall (AR@100, AR@300) is reported of the detections, and of "proposals" if they are named here.
    cfg.TEST.ALSO_RECALL_OF = []
