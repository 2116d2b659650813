"""Every config under configs/: a journey through each, shrunk, and what they say of one another."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model

from dk_detr.commands.gpu_check.shrunk import CONFIGS, FOLDER, TWO_STEPS, load, options_of, two_steps
from dk_detr.config import add_dk_detr_config
from dk_detr.criterion import BOX_TERMS
from dk_detr.engine import setup_cfg
from dk_detr.engine.checkpoint import StrictCheckpointer
from dk_detr.engine.run_folder import read_results
from dk_detr.language import COCO_NAMES
from dk_detr.modeling import CosineText, LinearBackground
from tests.run_fixtures import REPOSITORY, SIDE, World, assert_same_training, world_with_masks

IDS = [str(path.relative_to(FOLDER)) for path in CONFIGS]
R50 = FOLDER / "dk_detr_R50.yaml"
ABLATIONS = [path for path in CONFIGS if path.parent.name == "ablations"]
DEFORMABLE = [FOLDER / f"deformable_detr_{name}R50.yaml" for name in ("", "refine_", "two_stage_")]
EXTENSIONS = "MODEL.TRAINING_EXTENSIONS"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return world_with_masks(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize("path", CONFIGS, ids=IDS)
def test_every_config_builds_steps_answers_saves_and_resumes(path: Path, world: World, tmp_path: Path) -> None:
    whole = world.train(tmp_path / "whole", config=str(path), **two_steps(path), **options_of(path, world))
    results = read_results(str(whole))
    assert results is not None and results["iteration"] == 2
    assert "No loss reaches" not in (whole / "log.txt").read_text()  # several workers would wait for its gradient

    resumed = tmp_path / "resumed"
    resumed.mkdir()
    (resumed / "model_0000000.pth").write_bytes((whole / "model_0000000.pth").read_bytes())
    (resumed / "last_checkpoint").write_text("model_0000000.pth")
    options = {**two_steps(path), **options_of(path, world)}
    world.train(resumed, config=str(path), resume=True, **{**options, "DATASETS__TEST": ()})
    assert_same_training(resumed / "model_final.pth", whole / "model_final.pth")

    model = build_model(setup_cfg(str(path), world.options(**options))).eval()
    StrictCheckpointer(model).load(str(whole / "model_final.pth"))
    (answer,) = model([{"image": torch.full((3, SIDE, SIDE), 128.0), "height": 2 * SIDE, "width": SIDE}])
    found = answer["instances"]
    words_of_a_query = 1 if isinstance(model.classifier, LinearBackground) else 3
    assert len(found) == words_of_a_query * 10 and found.image_size == (2 * SIDE, SIDE)
    assert bool(torch.isfinite(found.scores).all() and torch.isfinite(found.pred_boxes.tensor).all())
    assert found.has("pred_masks") == ("segm" in results["results"]) == load(path).MODEL.MASK_ON


def test_masks_train_with_every_option_that_saves_memory_or_time(world: World, tmp_path: Path) -> None:
    options = {
        "SOLVER__ACCUMULATE": 2, "SOLVER__IMS_PER_BATCH": 4, "SOLVER__EMA_DECAY": 0.9, "SOLVER__AMP__ENABLED": True,
        "SOLVER__AMP__DTYPE": "bfloat16", "MODEL__DETR__CHECKPOINTED": ["encoder", "decoder"],
    }  # fmt: skip
    path = FOLDER / "mini" / "dk_detr_mask.yaml"
    run = world.train(tmp_path, config=str(path), **{**two_steps(path), **options})
    results = read_results(str(run))
    assert results is not None and {"bbox", "segm"} <= results["results"].keys()


def test_every_config_builds_and_takes_one_step() -> None:
    """The journey above covers them all; this says that there are some."""
    assert {R50, *DEFORMABLE} <= set(CONFIGS) and len(ABLATIONS) >= 8
    assert len([path for path in CONFIGS if path.parent.name == "mini"]) >= 2


@pytest.mark.parametrize("path", [path for path in CONFIGS if load(path).INPUT.AUGMENTATION == "LargeScaleJitter"][:1])
def test_the_smallest_image_that_the_jitter_makes_can_be_trained_on(path: Path, world: World, tmp_path: Path) -> None:
    """At its published size, alone on its worker, not padded: 102 pixels wide and high."""
    full = load(path)
    low = full.INPUT.JITTER_SCALE[0]
    sizes = {
        "INPUT__JITTER_SIZE": full.INPUT.JITTER_SIZE,
        "INPUT__JITTER_SCALE": [low, low],
        "MODEL__DETR__NUM_QUERIES": full.MODEL.DETR.NUM_QUERIES,
        "SOLVER__IMS_PER_BATCH": 1,
    }
    world.train(tmp_path, config=str(path), DATASETS__TEST=(), **{**TWO_STEPS, **sizes})
    assert list(tmp_path.rglob("model_final.pth"))


# ---- what they say ----


@pytest.mark.parametrize("path", CONFIGS, ids=IDS)
def test_a_misspelt_key_is_refused_by_name(path: Path) -> None:
    with pytest.raises(ValueError, match="MODEL.KD.TEMRS"):
        setup_cfg(str(path), ["MODEL.KD.TEMRS", "[]"])


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.yaml")), ids=lambda path: str(path.relative_to(FOLDER)))
def test_every_file_says_what_it_is_in_its_first_line(path: Path) -> None:
    assert re.match(r"# \S.*\.$|# \S.*[a-z,]$", path.read_text().splitlines()[0])


def test_every_config_writes_to_a_folder_of_its_own() -> None:
    folders = [load(path).OUTPUT_DIR for path in CONFIGS]
    assert len(set(folders)) == len(folders)
    assert all(folder.startswith("output/") for folder in folders)


def test_every_config_is_in_the_table() -> None:
    table = (FOLDER / "README.md").read_text()
    assert not [name for name in IDS if f"`{name}`" not in table]


def flat(node: CfgNode, prefix: str = "") -> dict[str, Any]:
    """Leaves of a config by their dotted key."""
    leaves: dict[str, Any] = {}
    for key, value in node.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, CfgNode) else {prefix + key: value}
    return leaves


def differences(one: Path, other: Path) -> set[str]:
    first, second = flat(load(one)), flat(load(other))
    return {key for key in first if first[key] != second[key]}


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_an_ablation_differs_from_the_method_in_distillation_only(path: Path) -> None:
    method = R50 if path.parents[1] == FOLDER else FOLDER / "mini" / "dk_detr.yaml"
    changed = differences(path, method) - {"OUTPUT_DIR"}
    assert all(key.startswith("MODEL.KD.") for key in changed - {EXTENSIONS})
    assert (EXTENSIONS in changed) == (path.stem == "no_distillation")
    assert bool(changed) == (path.stem != "full")


@pytest.mark.parametrize("path", [path for path in CONFIGS if load(path).MODEL.DETR.MASKS], ids=lambda path: path.stem)
def test_masks_are_all_that_a_config_with_masks_adds(path: Path) -> None:
    without = {"soit_R50": "deformable_detr_two_stage_R50", "soit": "Base-closed"}
    plain = path.with_name(without.get(path.stem, path.stem.replace("_mask", "")) + ".yaml")
    queries = {"MODEL.DETR.QUERIES"} if path.stem == "soit" else set()
    drawn_by_workers = {"INPUT.MASK_FORMAT"} if "R50" in path.stem else set()
    assert differences(path, plain) - queries - drawn_by_workers == {"MODEL.MASK_ON", "MODEL.DETR.MASKS", "OUTPUT_DIR"}
    assert load(path).INPUT.MASK_FORMAT == ("bitmask" if drawn_by_workers else "polygon")
    assert dict(load(plain).MODEL.DETR.LOSS.MASK_WEIGHTS) == {"DICE": 8.0, "BCE": 2.0}


def test_the_comparison_in_the_mini_world_differs_in_distillation_only() -> None:
    changed = differences(FOLDER / "mini" / "dk_detr.yaml", FOLDER / "mini" / "no_distillation.yaml")
    assert all(key.startswith(("MODEL.KD.", "MODEL.TEACHER.", "OUTPUT_DIR")) for key in changed - {EXTENSIONS})
    assert EXTENSIONS in changed


def test_the_method_has_the_published_settings() -> None:
    published = {
        "MODEL.RESNETS.DEPTH": 50,
        "MODEL.DETR.NUM_QUERIES": 300,
        "MODEL.DETR.QUERIES": "Proposals",
        "MODEL.DETR.CHANNELS": 256,
        "MODEL.DETR.NUM_HEADS": 8,
        "MODEL.DETR.NUM_POINTS": 4,
        "MODEL.DETR.NUM_EXTRA_LEVELS": 1,
        "MODEL.DETR.ENCODER_LAYERS": 6,
        "MODEL.DETR.DECODER_LAYERS": 6,
        "MODEL.DETR.FFN_CHANNELS": 1024,
        "MODEL.DETR.DROPOUT": 0.1,
        "MODEL.DETR.ANCHOR_SIZE": 0.05,
        "MODEL.DETR.CLASSIFIER.TEMPERATURE": 0.05,
        "MODEL.DETR.CLASSIFIER.LOGIT_BIAS": None,
        "MODEL.DETR.LOSS.WEIGHTS.CLASS": 2.0,
        "MODEL.DETR.LOSS.WEIGHTS.L1": 5.0,
        "MODEL.DETR.LOSS.WEIGHTS.GIOU": 2.0,
        "MODEL.KD.TERMS": ["semantic", "relational"],
        EXTENSIONS: ["Distillation"],
        "MODEL.KD.QUERIES": "Auxiliary",
        "MODEL.KD.NUM_SLOTS": 20,
        "MODEL.KD.SLOT_FILTERS": ["unmatched"],
        "MODEL.KD.RELATIONAL.SCOPES": ["image", "batch"],
        "INPUT.AUGMENTATION": "LargeScaleJitter",
        "INPUT.JITTER_SIZE": 1024,
        "INPUT.EMPTY_SAMPLES": "Redraw",
        "INPUT.MIN_SIZE_TEST": 1024,
        "INPUT.MAX_SIZE_TEST": 1024,
        "MODEL.DETR.PADDED_SIZE": 1024,
        "DATALOADER.SAMPLER_TRAIN": "ClassBalancedTrainingSampler",
        "DATALOADER.REPEAT_THRESHOLD": 0.001,
        "TEST.DETECTIONS_PER_IMAGE": 300,
        "SOLVER.WEIGHT_DECAY": 0.05,
        "SOLVER.WEIGHT_DECAY_NORM": 0.0,
        "SOLVER.BACKBONE_MULTIPLIER": 0.1,
        "SOLVER.SAMPLING_MULTIPLIER": 0.1,
        "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 0.1,
        "SOLVER.WARMUP_ITERS": 2000,
        "SOLVER.WARMUP_FACTOR": 0.001,
        "DATASETS.TRAIN": ("lvis_v1_train_norare",),
        "DATASETS.TEST": ("lvis_v1_val",),
    }
    found = flat(load(R50))
    assert {key: found[key] for key in published} == published


@pytest.mark.parametrize(
    ("folder", "alone"), [("", R50), ("mini", FOLDER / "mini" / "no_distillation.yaml")], ids=["R50", "mini"]
)
def test_a_head_of_vild_differs_from_the_detector_in_classes_and_teaching_only(folder: str, alone: Path) -> None:
    head = {"CLASSIFIER.NAME", "CLASSIFIER.TEMPERATURE", "LOSS.CLASS"}
    teaching = (EXTENSIONS, "MODEL.KD.", "MODEL.TEACHER.CROP_SCALES", "OUTPUT_DIR")
    suffix = "" if folder else "_R50"
    forms = {name: FOLDER / folder / f"vild{name}{suffix}.yaml" for name in ("_text", "_image", "", "_ensemble")}
    for path in forms.values():
        changed = {key for key in differences(path, alone) if not key.startswith(teaching)}
        assert changed == {f"MODEL.DETR.{key}" for key in head}
        assert load(path).MODEL.DETR.CLASSIFIER.TEMPERATURE == 0.01
    assert load(forms["_text"]).MODEL.TRAINING_EXTENSIONS == []
    assert all(key.startswith(teaching) for key in differences(forms["_text"], forms[""]))
    assert differences(forms[""], forms["_ensemble"]) == {"MODEL.DETR.CLASSIFIER.NAME", "OUTPUT_DIR"}
    assert differences(forms[""], forms["_image"]) == {
        "MODEL.DETR.CLASSIFIER.NAME", "MODEL.DETR.LOSS.CLASS", "OUTPUT_DIR"
    }  # fmt: skip


@pytest.mark.parametrize("name", ["vild_R50.yaml", "mini/vild.yaml"])
def test_vild_teaches_all_proposals_as_published(name: str) -> None:
    cfg = load(FOLDER / name)
    kd = cfg.MODEL.KD
    assert (kd.TERMS, kd.QUERIES, kd.SLOT_FILTERS) == (["embedding_l1"], "Detection", [])
    assert kd.NUM_SLOTS == cfg.MODEL.DETR.NUM_QUERIES and kd.EMBEDDING_L1.WEIGHT == 0.5
    assert cfg.MODEL.TEACHER.CROP_SCALES == [1.0, 1.5] and cfg.MODEL.DETR.CLASSIFIER.HOME_WEIGHT == 2 / 3
    assert cfg.MODEL.DETR.LOSS.NO_OBJECT_WEIGHT == 0.1


def test_each_deformable_detr_adds_one_idea_to_the_one_before() -> None:
    plain, refined, two_stage = DEFORMABLE
    assert differences(plain, refined) == {"MODEL.DETR.REFINEMENT", "MODEL.DETR.HEADS", "OUTPUT_DIR"}
    assert differences(refined, two_stage) == {"MODEL.DETR.QUERIES", "OUTPUT_DIR"}


@pytest.mark.parametrize("path", DEFORMABLE, ids=lambda path: path.stem)
def test_a_deformable_detr_has_the_published_settings(path: Path) -> None:
    published = {
        "MODEL.RESNETS.DEPTH": 50,
        "MODEL.RESNETS.NORM": "FrozenBN",
        "MODEL.BACKBONE.FREEZE_AT": 2,
        "MODEL.DETR.NUM_QUERIES": 300,
        "MODEL.DETR.CHANNELS": 256,
        "MODEL.DETR.NUM_EXTRA_LEVELS": 1,
        "MODEL.DETR.FFN_CHANNELS": 1024,
        "MODEL.DETR.DROPOUT": 0.1,
        "MODEL.DETR.CLASSIFIER.NAME": "Linear",
        EXTENSIONS: [],
        "INPUT.MIN_SIZE_TRAIN": tuple(range(480, 801, 32)),
        "INPUT.MAX_SIZE_TRAIN": 1333,
        "INPUT.MIN_SIZE_TEST": 800,
        "INPUT.MAX_SIZE_TEST": 1333,
        "SOLVER.IMS_PER_BATCH": 32,
        "SOLVER.BASE_LR": 2e-4,
        "SOLVER.BACKBONE_MULTIPLIER": 0.1,
        "SOLVER.SAMPLING_MULTIPLIER": 0.1,
        "SOLVER.WEIGHT_DECAY": 1e-4,
        "SOLVER.WEIGHT_DECAY_NORM": 1e-4,
        "SOLVER.WARMUP_ITERS": 0,
        "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 0.1,
        "TEST.DETECTIONS_PER_IMAGE": 100,
    }
    found = flat(load(path))
    assert {key: found[key] for key in published} == published
    assert found["SOLVER.STEPS"][0] / found["SOLVER.MAX_ITER"] == pytest.approx(40 / 50, abs=1e-4)


@pytest.mark.parametrize("path", DEFORMABLE, ids=lambda path: path.stem)
def test_a_deformable_detr_knows_the_words_of_coco(path: Path, world: World) -> None:
    model = build_model(setup_cfg(str(path), world.options(MODEL__VOCABULARY__TEST="coco")))
    assert model.vocabulary.names == model.train_vocabulary.names == COCO_NAMES
    assert {projection.out_features for projection in model.classifier.projections} == {80}


# ---- the DETR series ----

COCO = {  # what all of them share
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.NORM": "FrozenBN",
    "MODEL.BACKBONE.FREEZE_AT": 2,
    "MODEL.DETR.CHANNELS": 256,
    "MODEL.DETR.NUM_HEADS": 8,
    "MODEL.DETR.ENCODER_LAYERS": 6,
    "MODEL.DETR.DECODER_LAYERS": 6,
    "MODEL.DETR.FFN_CHANNELS": 2048,
    "MODEL.DETR.LOSS.WEIGHTS.L1": 5.0,
    "MODEL.DETR.LOSS.WEIGHTS.GIOU": 2.0,
    "MODEL.DETR.MATCHER.L1": 5.0,
    "MODEL.DETR.MATCHER.GIOU": 2.0,
    "MODEL.VOCABULARY.TEST": "coco",
    EXTENSIONS: [],
    "DATASETS.TRAIN": ("coco_2017_train",),
    "DATASETS.TEST": ("coco_2017_val",),
    "DATALOADER.SAMPLER_TRAIN": "TrainingSampler",
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": False,
    "INPUT.AUGMENTATION": "CropOrNot",
    "INPUT.EMPTY_SAMPLES": "Keep",
    "MODEL.DETR.PADDED_SIZE": 0,
    "INPUT.MIN_SIZE_TRAIN": tuple(range(480, 801, 32)),
    "INPUT.MAX_SIZE_TRAIN": 1333,
    "INPUT.MIN_SIZE_TEST": 800,
    "INPUT.MAX_SIZE_TEST": 1333,
    "SOLVER.BASE_LR": 1e-4,
    "SOLVER.BACKBONE_MULTIPLIER": 0.1,
    "SOLVER.WEIGHT_DECAY": 1e-4,
    "SOLVER.WEIGHT_DECAY_NORM": 1e-4,
    "SOLVER.WARMUP_ITERS": 0,
    "SOLVER.GAMMA": 0.1,
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 0.1,
}
ONE_LEVEL = {
    "MODEL.DETR.IN_FEATURES": ["res5"],
    "MODEL.DETR.NUM_EXTRA_LEVELS": 0,
    "MODEL.DETR.NECK_NORM": "none",
    "MODEL.DETR.ENCODER_ATTENTION": "Dense",
    "MODEL.DETR.CONTENT": "Zero",
    "MODEL.DETR.HEADS": "Shared",
    "MODEL.DETR.DECODER_NORM": "LN",
    "MODEL.DETR.SINE.FIRST_CELL": 1.0,
    "SOLVER.SAMPLING_MULTIPLIER": 1.0,
}
FOUR_LEVELS = {
    "MODEL.DETR.IN_FEATURES": ["res3", "res4", "res5"],
    "MODEL.DETR.NUM_EXTRA_LEVELS": 1,
    "MODEL.DETR.NECK_NORM": "GN",
    "MODEL.DETR.NUM_POINTS": 4,
    "SOLVER.SAMPLING_MULTIPLIER": 1.0,
}
OF_DAB = {
    "MODEL.DETR.NUM_QUERIES": 300,
    "MODEL.DETR.QUERIES": "Anchors",
    "MODEL.DETR.CLASSIFIER.NAME": "Linear",
    "MODEL.DETR.LOSS.WEIGHTS.CLASS": 1.0,
    "MODEL.DETR.MATCHER.CLASS": 2.0,
    "MODEL.DETR.DROPOUT": 0.0,
    "MODEL.DETR.SINE.TEMPERATURE": 20.0,
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "detr_R50": {
        **COCO,
        **ONE_LEVEL,
        "MODEL.DETR.NUM_QUERIES": 100,
        "MODEL.DETR.DROPOUT": 0.1,
        "MODEL.DETR.ACTIVATION": "relu",
        "MODEL.DETR.REFINEMENT": "Direct",
        "MODEL.DETR.SINE.TEMPERATURE": 10000.0,
        "MODEL.DETR.CLASSIFIER.NAME": "LinearBackground",
        "MODEL.DETR.LOSS.CLASS": "CrossEntropy",
        "MODEL.DETR.LOSS.WEIGHTS.CLASS": 1.0,
        "MODEL.DETR.LOSS.NO_OBJECT_WEIGHT": 0.1,
        "MODEL.DETR.MATCHER.CLASS": 1.0,
        "SOLVER.IMS_PER_BATCH": 64,
        "TEST.DETECTIONS_PER_IMAGE": 100,
    },
    "conditional_detr_R50": {
        **COCO,
        **ONE_LEVEL,
        "MODEL.DETR.NUM_QUERIES": 300,
        "MODEL.DETR.DROPOUT": 0.1,
        "MODEL.DETR.ACTIVATION": "relu",
        "MODEL.DETR.REFINEMENT": "FromReference",
        "MODEL.DETR.SINE.TEMPERATURE": 10000.0,
        "MODEL.DETR.CLASSIFIER.NAME": "Linear",
        "MODEL.DETR.LOSS.WEIGHTS.CLASS": 2.0,
        "MODEL.DETR.MATCHER.CLASS": 2.0,
        "SOLVER.IMS_PER_BATCH": 16,
        "TEST.DETECTIONS_PER_IMAGE": 100,
    },
    "dab_detr_R50": {
        **COCO,
        **ONE_LEVEL,
        **OF_DAB,
        "MODEL.DETR.ACTIVATION": "prelu",
        "MODEL.DETR.ENCODER_POSITION": "ScaledSine",
        "MODEL.DETR.REFINEMENT": "LookForwardTwice",
        "SOLVER.IMS_PER_BATCH": 16,
        "TEST.DETECTIONS_PER_IMAGE": 300,
    },
    "dab_deformable_detr_R50": {
        **{key: value for key, value in COCO.items() if key != "MODEL.DETR.FFN_CHANNELS"},
        **FOUR_LEVELS,
        **OF_DAB,
        "MODEL.DETR.CONTENT": "Learned",
        "MODEL.DETR.HEADS": "PerLayer",
        "MODEL.DETR.REFINEMENT": "Iterative",
        "MODEL.DETR.SINE.TEMPERATURE": 10000.0,  # its maps are coded as Deformable DETR's
        "MODEL.DETR.SINE.FIRST_CELL": 0.5,
        "SOLVER.IMS_PER_BATCH": 16,
        "TEST.DETECTIONS_PER_IMAGE": 100,
    },
    "dino_R50_4scale": {
        **COCO,
        **FOUR_LEVELS,
        "MODEL.DETR.NUM_QUERIES": 900,
        "MODEL.DETR.QUERIES": "Mixed",
        "MODEL.DETR.FIRST_STAGE": "ClassAware",
        "MODEL.DETR.DROPOUT": 0.0,
        "MODEL.DETR.HEADS": "Shared",
        "MODEL.DETR.DECODER_NORM": "LN",
        "MODEL.DETR.SINE.TEMPERATURE": 20.0,
        "MODEL.DETR.LOSS.WEIGHTS.CLASS": 1.0,
        "MODEL.DETR.MATCHER.CLASS": 2.0,
        EXTENSIONS: ["ContrastiveDenoising"],
        "MODEL.DETR.CONTRASTIVE_DENOISING.QUERIES": 100,
        "MODEL.DETR.CONTRASTIVE_DENOISING.LABEL_NOISE": 0.25,
        "MODEL.DETR.CONTRASTIVE_DENOISING.BOX_NOISE": 1.0,
        "SOLVER.IMS_PER_BATCH": 16,
        "TEST.DETECTIONS_PER_IMAGE": 300,
    },
}
EPOCHS = {  # all, and where the learning rate drops
    "detr_R50": (500, 400),
    "conditional_detr_R50": (50, 40),
    "dab_detr_R50": (50, 40),
    "dn_detr_R50": (50, 40),
    "dab_deformable_detr_R50": (50, 40),
    "dn_deformable_detr_R50": (50, 40),
    "dino_R50_4scale": (12, 11),
    "deformable_detr_R50": (50, 40),
}
IMAGES = 118287  # of COCO's training in 2017; 1021 show no object, and the releases have them, too


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_detector_of_the_series_has_the_published_settings(name: str) -> None:
    found = flat(load(FOLDER / f"{name}.yaml"))
    assert {key: found[key] for key in PUBLISHED[name]} == PUBLISHED[name]


@pytest.mark.parametrize("name", EPOCHS)
def test_a_detector_of_the_series_is_trained_as_long_as_published(name: str) -> None:
    solver = load(FOLDER / f"{name}.yaml").SOLVER
    steps = [step * solver.IMS_PER_BATCH / IMAGES for step in (solver.MAX_ITER, *solver.STEPS)]
    assert steps == pytest.approx(EPOCHS[name], abs=1e-3)


@pytest.mark.parametrize("path", CONFIGS, ids=IDS)
def test_losses_of_a_first_stage_weigh_as_those_of_the_layers(path: Path) -> None:
    """As published; they have keys of their own."""
    detr = load(path).MODEL.DETR
    if detr.QUERIES in ("Proposals", "Mixed"):
        assert dict(detr.LOSS.FIRST_STAGE_WEIGHTS) == dict(detr.LOSS.WEIGHTS)


@pytest.mark.parametrize("folder", ["", "mini"])
def test_dn_differs_from_dab_in_its_denoising_and_in_what_queries_know_before(folder: str) -> None:
    """For detection queries the label is "unknown", where DAB-DETR has none."""
    suffix = "" if folder else "_R50"
    of = {name: FOLDER / folder / f"{name}{suffix}.yaml" for name in ("dab_detr", "dn_detr")}
    denoising = {EXTENSIONS, "OUTPUT_DIR"}
    assert differences(*of.values()) == {"MODEL.DETR.CONTENT", *denoising}
    assert load(of["dn_detr"]).MODEL.DETR.CONTENT == "Common"
    deformable = [FOLDER / folder / f"{name}_deformable_detr{suffix}.yaml" for name in ("dab", "dn")]
    assert differences(*deformable) == denoising
    model = load(of["dn_detr"]).MODEL
    assert model.TRAINING_EXTENSIONS == ["Denoising"]
    assert dict(model.DETR.DENOISING) == {"GROUPS": 5, "LABEL_NOISE": 0.2, "BOX_NOISE": 0.4}


@pytest.mark.parametrize("folder", ["", "mini"])
def test_dk_dino_is_dk_detr_with_the_decoder_and_the_denoising_of_dino(folder: str) -> None:
    suffix, other = ("", "") if folder else ("_R50", "_R50_4scale")
    taught, plain = (FOLDER / folder / f"{name}{suffix}.yaml" for name in ("dk_dino", "dk_detr"))
    dino = load(FOLDER / folder / f"dino{other}.yaml")
    changed = differences(taught, plain) - {"OUTPUT_DIR"}
    assert {"MODEL.DETR.POSITION", "MODEL.DETR.REFINEMENT", EXTENSIONS} <= changed
    changed -= {EXTENSIONS}
    assert all(key.startswith("MODEL.DETR.") for key in changed)
    wanted, found = flat(dino), flat(load(taught))
    assert {key: found[key] for key in changed} == {key: wanted[key] for key in changed}
    assert found[EXTENSIONS] == [*wanted[EXTENSIONS], *load(plain).MODEL.TRAINING_EXTENSIONS]


@pytest.mark.parametrize("name", [*EPOCHS, *(path.stem for path in DEFORMABLE[1:]), "dk_dino_R50"])
def test_a_detector_of_the_series_is_a_page_of_at_most_twenty_lines(name: str) -> None:
    """With those that it shares with others beside it; none is a copy of another."""
    assert len((FOLDER / f"{name}.yaml").read_text().splitlines()) <= 20


@pytest.mark.parametrize(("name", "queries", "epochs"), [("1x", 100, (12, 8, 11)), ("3x_300", 300, (36, 24, 33))])
def test_adamixer_has_the_published_settings(name: str, queries: int, epochs: tuple[int, int, int]) -> None:
    cfg = load(FOLDER / f"adamixer_R50_{name}.yaml")
    published = {
        "MODEL.DETR.NUM_QUERIES": queries, "TEST.DETECTIONS_PER_IMAGE": queries, "MODEL.DETR.DECODER_LAYERS": 6,
        "MODEL.DETR.FFN_CHANNELS": 2048, "MODEL.DETR.DROPOUT": 0.0, "MODEL.DETR.NUM_HEADS": 8,
        "MODEL.DETR.ADAMIXER.GROUPS": 4, "MODEL.DETR.ADAMIXER.POINTS": 32, "MODEL.DETR.ADAMIXER.OUT_POINTS": 128,
        "MODEL.DETR.LOSS.L1": "xyxy", "SOLVER.BASE_LR": 0.000025, "SOLVER.BACKBONE_MULTIPLIER": 1.0,
        "SOLVER.WEIGHT_DECAY": 0.0001, "SOLVER.IMS_PER_BATCH": 16, "SOLVER.WARMUP_ITERS": 500,
        "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 1.0, "SOLVER.GAMMA": 0.1, "INPUT.MIN_SIZE_TEST": 800,
        "DATALOADER.FILTER_EMPTY_ANNOTATIONS": True, "MODEL.RESNETS.STRIDE_IN_1X1": False,
    }  # fmt: skip
    found = flat(cfg)
    assert {key: found[key] for key in published} == published
    an_epoch = 117_266 / 16  # images of COCO with an object
    total, *drops = (epoch * an_epoch for epoch in epochs)
    assert cfg.SOLVER.MAX_ITER == pytest.approx(total, abs=1) and cfg.SOLVER.STEPS == pytest.approx(drops, abs=1)


@pytest.mark.parametrize("path", [path for path in CONFIGS if path.parent.name == "mini"], ids=lambda path: path.stem)
def test_what_the_mini_world_shrinks_it_shrinks_for_all_alike(path: Path) -> None:
    """So that curves can be compared: data, schedule, size."""
    found, base = load(path), load(FOLDER / "mini" / "detr.yaml")
    if found.MODEL.DETR.CLASSIFIER.NAME in ("Linear", "LinearBackground"):
        for key in ("MAX_ITER", "STEPS", "IMS_PER_BATCH", "BASE_LR", "WEIGHT_DECAY"):
            assert found.SOLVER[key] == base.SOLVER[key], key
        for key in ("NUM_QUERIES", "CHANNELS", "FFN_CHANNELS"):
            assert found.MODEL.DETR[key] == base.MODEL.DETR[key], key
        layers = [(detr.ENCODER_LAYERS, detr.DECODER_LAYERS) for detr in (found.MODEL.DETR, base.MODEL.DETR)]
        if found.MODEL.DETR.DECODER == "AdaMixer":  # has no encoder: as many layers in all
            assert layers[0] == (0, sum(layers[1]))
        else:
            assert layers[0] == layers[1]
        assert found.DATASETS == base.DATASETS and found.INPUT == base.INPUT


# ---- what README.md says ----

COLUMNS = {
    "queries": "MODEL.DETR.NUM_QUERIES",
    "kept": "TEST.DETECTIONS_PER_IMAGE",
    "FFN": "MODEL.DETR.FFN_CHANNELS",
    "dropout": "MODEL.DETR.DROPOUT",
    "temperature": "MODEL.DETR.SINE.TEMPERATURE",
    "first cell": "MODEL.DETR.SINE.FIRST_CELL",
    "class loss": "MODEL.DETR.LOSS.WEIGHTS.CLASS",
    "class cost": "MODEL.DETR.MATCHER.CLASS",
    "test": ("INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST"),
    "padded": "MODEL.DETR.PADDED_SIZE",
    "rate": "SOLVER.BASE_LR",
    "× backbone": "SOLVER.BACKBONE_MULTIPLIER",
    "× offsets": "SOLVER.SAMPLING_MULTIPLIER",
    "batch": "SOLVER.IMS_PER_BATCH",
    "iterations": "SOLVER.MAX_ITER",
    "drop at": "SOLVER.STEPS",
    "warm-up": "SOLVER.WARMUP_ITERS",
    "decay": "SOLVER.WEIGHT_DECAY",
    "of norms": "SOLVER.WEIGHT_DECAY_NORM",
    "clip": "SOLVER.CLIP_GRADIENTS.CLIP_VALUE",
    "norm": "MODEL.RESNETS.NORM",
    "augmentation": "INPUT.AUGMENTATION",
}


def settings_tables() -> list[tuple[str, str, str]]:
    """(config, column, value) of the tables of settings."""
    text = (FOLDER / "README.md").read_text().partition('<a name="settings"></a>')[2].partition('<a name="vild">')[0]
    cells, columns = [], []
    for line in text.splitlines():
        first, *others = [cell.strip() for cell in line.strip("|").split("|")]
        columns = others if first == "config" else columns
        cells += [(first.strip("`"), *pair) for pair in zip(columns, others) if first.startswith("`")]
    return cells


def as_numbers(value: Any) -> Any:
    """As the tables write it: 0.1, 2, 800/1333."""
    if isinstance(value, tuple | list):
        return "/".join(map(as_numbers, value))
    return value if isinstance(value, str) else f"{value:.6f}".rstrip("0").rstrip(".")


def test_the_tables_of_settings_have_the_numbers_of_the_configs() -> None:
    cells = settings_tables()
    names = {*EPOCHS, *(path.stem for path in DEFORMABLE), "dk_detr_R50"}
    assert {(name, column) for name, column, _ in cells} == {(name, column) for name in names for column in COLUMNS}
    for name, column, said in cells:
        found, keys = flat(load(FOLDER / f"{name}.yaml")), COLUMNS[column]
        value = found[keys] if isinstance(keys, str) else [found[key] for key in keys]
        assert as_numbers(value) == said.rstrip("*"), (name, column)


# ---- the keys themselves ----


TABLES_OF_TERMS = ("MODEL.DETR.LOSS.WEIGHTS", "MODEL.DETR.LOSS.FIRST_STAGE_WEIGHTS", "MODEL.DETR.MATCHER")


def own_keys() -> dict[str, Any]:
    """The keys that this project adds."""
    theirs = set(flat(get_cfg()))
    cfg = get_cfg()
    add_dk_detr_config(cfg)
    return {key: value for key, value in flat(cfg).items() if key not in theirs}


def test_no_key_is_a_flag() -> None:
    assert not [key for key, value in own_keys().items() if isinstance(value, bool)]


def test_every_key_is_read_somewhere() -> None:
    """Those that are named after terms, or are exponents of scores, are read together, as their table."""
    files = [path for path in (REPOSITORY / "dk_detr").rglob("*.py") if path.name != "config.py"]
    source = "\n".join(path.read_text() for path in files)
    weighed = {"class", *BOX_TERMS} - {"quality"}  # of which MODEL.DETR.QUALITY.WEIGHT is all there is
    terms = {f"{table}.{name.upper()}" for table in TABLES_OF_TERMS for name in weighed}
    exponents = {f"MODEL.DETR.CLASSIFIER.{name}" for name in CosineText.exponents}
    assert terms | exponents < own_keys().keys()
    read = {*(own_keys().keys() - terms - exponents), *TABLES_OF_TERMS}
    assert not [key for key in read if not re.search(rf"\.{key.split('.')[-1]}\b", source)]
