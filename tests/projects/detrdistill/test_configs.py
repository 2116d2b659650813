"""Every config of DETRDistill: a journey through each, shrunk; what is refused; what is published."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model

from dk_detr.commands.gpu_check.shrunk import TWO_STEPS, two_steps
from dk_detr.engine import setup_cfg
from dk_detr.engine.checkpoint import StrictCheckpointer
from dk_detr.engine.run_folder import read_results
from dk_detr.language import save_vocabulary
from projects.DETRDistill.detrdistill.teacher import load_teacher
from tests.projects.detrdistill.config_fixtures import CONFIGS, DEFORMABLE, KEY, OPEN, load, teacher_of
from tests.run_fixtures import REPOSITORY, SIDE, World, assert_same_training, state_of, words

ALL = sorted(CONFIGS.rglob("*.yaml"))
TAUGHT = [path for path in ALL if "DETRDistill" in load(path).MODEL.TRAINING_EXTENSIONS]
IDS = [str(path.relative_to(CONFIGS)) for path in TAUGHT]
every_taught = pytest.mark.parametrize("path", TAUGHT, ids=IDS)


def student_of(path: Path) -> Path:
    """The config of the student alone."""
    (base,) = re.findall(r'_BASE_: "(.*)"', path.read_text())
    below = path.parent / base
    return student_of(below) if "DETRDistill" in load(below).MODEL.TRAINING_EXTENSIONS else below


@every_taught
def test_every_config_trains_resumes_and_leaves_a_plain_detector(path: Path, world: World, tmp_path: Path) -> None:
    options = {**two_steps(path), **teacher_of(path, world, tmp_path / "teacher")}
    whole = world.train(tmp_path / "whole", config=str(path), **options)
    results = read_results(str(whole))
    assert results is not None and results["iteration"] == 2
    assert "No loss reaches" not in (whole / "log.txt").read_text()  # several workers would wait for its gradient

    resumed = tmp_path / "resumed"
    resumed.mkdir()
    (resumed / "model_0000000.pth").write_bytes((whole / "model_0000000.pth").read_bytes())
    (resumed / "last_checkpoint").write_text("model_0000000.pth")
    world.train(resumed, config=str(path), resume=True, **{**options, "DATASETS__TEST": ()})
    assert_same_training(resumed / "model_final.pth", whole / "model_final.pth")

    plain = build_model(setup_cfg(str(student_of(path)), world.options(**two_steps(path)))).eval()
    StrictCheckpointer(plain).load(str(whole / "model_final.pth"))
    (answer,) = plain([{"image": torch.full((3, SIDE, SIDE), 128.0), "height": SIDE, "width": SIDE}])
    assert bool(torch.isfinite(answer["instances"].scores).all())


def test_a_student_trains_with_every_option_that_saves_memory_or_time(world: World, tmp_path: Path) -> None:
    options = {
        "SOLVER__ACCUMULATE": 2, "SOLVER__IMS_PER_BATCH": 4, "SOLVER__EMA_DECAY": 0.9, "SOLVER__AMP__ENABLED": True,
        "SOLVER__AMP__DTYPE": "bfloat16", "MODEL__DETR__CHECKPOINTED": ["encoder", "decoder"],
        "MODEL__DETRDISTILL__TERMS": [
            "hungarian_logits", "target_aware_features", "query_prior_assignment", "contrastive_queries", "fitnet",
            "mgd", "fgd", "kd_detr",
        ],
        **teacher_of(DEFORMABLE, world, tmp_path / "teacher"),
    }  # fmt: skip
    run = world.train(tmp_path / "run", config=str(DEFORMABLE), **{**TWO_STEPS, **options})
    saved = state_of(run / "model_final.pth")
    assert not [name for name in saved["model"] if "teacher" in name]
    assert any(name.startswith("extensions.DETRDistill.terms.fgd.") for name in saved["model"])


def test_the_vocabulary_of_the_teacher_need_not_be_there(world: World, tmp_path: Path) -> None:
    named = teacher_of(OPEN, world, tmp_path / "teacher")
    config = Path(named[f"{KEY}CONFIG"])
    config.write_text(config.read_text().replace(str(world.root / "words.npz"), str(tmp_path / "gone.npz")))
    world.train(tmp_path / "run", config=str(OPEN), **{**TWO_STEPS, **named, "DATASETS__TEST": ()})


BOXES = {"MODEL__DETR__QUERIES": "Anchors", "MODEL__DETR__POSITION": "SineAnchors"}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({f"{KEY}CONFIG": "''"}, 'MODEL.TEACHER_DETECTOR.CONFIG is "": name the file of its config, or take "DETRDistill"'),
    ({f"{KEY}WEIGHTS": "''"}, 'MODEL.TEACHER_DETECTOR.WEIGHTS is "": name its weights'),
    ({f"{KEY}WEIGHTS": "none.pth"}, "The teacher (MODEL.TEACHER_DETECTOR): "),
    ({f"{KEY}CONFIG": "none.yaml"}, "There is no config file none.yaml (MODEL.TEACHER_DETECTOR.CONFIG)"),
    ({f"{KEY}DTYPE": "float8"}, 'MODEL.TEACHER_DETECTOR.DTYPE is "float8"; choose one of'),
    ({"MODEL__DETRDISTILL__TERMS": []}, "MODEL.DETRDISTILL.TERMS is []: name what is to be learned"),
    ({"MODEL__DETRDISTILL__TERMS": ["logits"]}, 'MODEL.DETRDISTILL.TERMS is "logits"; choose one of'),
    ({"MODEL__DETRDISTILL__HUNGARIAN_LOGITS__VARIANT": "code"}, 'VARIANT is "code"; choose one of paper, release'),
    ({"MODEL__DETRDISTILL__KD_DETR__CLASSES": "linear"}, 'KD_DETR.CLASSES is "linear"; choose one of softmax, sigmoid'),
    ({"MODEL__DETRDISTILL__TAP": "backbone"}, 'MODEL.DETRDISTILL.TAP is "backbone"; choose one of memory, neck'),
    ({"MODEL__DETRDISTILL__QUERY_PRIOR_ASSIGNMENT__REFERENCE": "me"}, 'REFERENCE is "me"; choose one of teacher'),
    ({"MODEL__DETRDISTILL__FITNET__WEIGHT": -1.0}, "MODEL.DETRDISTILL.FITNET.WEIGHT must be 0 or more, got -1.0"),
    ({"MODEL__DETRDISTILL__FGD__TEMPERATURE": 0.0}, "MODEL.DETRDISTILL.FGD.TEMPERATURE must be above 0, got 0.0"),
    ({"MODEL__DETRDISTILL__MGD__MASKED": 1.0}, "MODEL.DETRDISTILL.MGD.MASKED is a share below 1, got 1.0"),
    ({"MODEL__DETRDISTILL__TARGET_AWARE_FEATURES__GAMMA": 1.5}, "GAMMA is in [0, 1], got 1.5"),
    ({"MODEL__DETRDISTILL__KD_DETR__POINTS": []}, 'KD_DETR.POINTS is []: name "specific", "general" or both'),
    ({"MODEL__DETRDISTILL__KD_DETR__POINTS": ["own"]}, 'KD_DETR.POINTS is "own"; choose one of specific, general'),
    ({"MODEL__DETRDISTILL__TERMS": ["query_embeddings"]}, 'and the student has MODEL.DETR.CLASSIFIER.NAME "Linear"'),
    ({**BOXES, "MODEL__DETR__REFINEMENT": "Iterative"},
     "the student's start from boxes, the teacher's from points"),
    ({"MODEL__DETR__CLASSIFIER__NAME": "LinearBackground", "MODEL__DETR__LOSS__CLASS": "CrossEntropy"},
     'judges words by a sigmoid ("Linear"), the student by a softmax ("LinearBackground"'),
    ({"MODEL__DETR__IN_FEATURES": ["res2"], "MODEL__RESNETS__OUT_FEATURES": ["res2"]},
     "the student has levels of 4 pixels, the teacher of 8, 16"),
]  # fmt: skip


@pytest.fixture(scope="module")
def teacher(world: World) -> dict[str, Any]:
    return teacher_of(DEFORMABLE, world, world.root / "teacher")


@pytest.mark.parametrize(("changed", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_what_cannot_be_is_refused_before_training(
    changed: dict[str, Any], message: str, world: World, teacher: dict[str, Any]
) -> None:
    cfg = setup_cfg(str(DEFORMABLE), world.options(**{**TWO_STEPS, **teacher, **changed}))
    with pytest.raises((ValueError, OSError), match=re.escape(message)):
        build_model(cfg)


def test_a_teacher_of_another_kind_is_refused(world: World, teacher: dict[str, Any]) -> None:
    vild = REPOSITORY / "projects" / "ViLD" / "configs" / "mini" / "ViLD.yaml"
    cfg = setup_cfg(str(DEFORMABLE), world.options(**{**TWO_STEPS, **teacher, f"{KEY}CONFIG": vild}))
    with pytest.raises(ValueError, match='is of MODEL.META_ARCHITECTURE "ViLD"; a teacher here is a "DETR"'):
        build_model(cfg)


def test_a_teacher_that_knows_fewer_words_is_refused(world: World, tmp_path: Path) -> None:
    fewer = tmp_path / "fewer.npz"
    save_vocabulary(words(("red_box", "blue_box")), str(fewer))
    named = teacher_of(DEFORMABLE, world, tmp_path, MODEL__VOCABULARY__TEST=fewer)
    cfg = setup_cfg(str(DEFORMABLE), world.options(**{**TWO_STEPS, **named}))
    with pytest.raises(ValueError, match=r'was not trained for "green_box" \(1 of the 2 words of the student'):
        build_model(cfg)


def test_the_release_warms_up_and_its_baseline_does_not() -> None:
    taught, alone = load(CONFIGS / "deformable_R101_teaches_R50.yaml"), load(CONFIGS / "deformable_R50.yaml")
    assert (taught.SOLVER.WARMUP_ITERS, taught.SOLVER.WARMUP_FACTOR) == (500, 0.001)
    assert alone.SOLVER.WARMUP_ITERS == 0


def test_teacher_and_student_are_as_published() -> None:
    cfg = load(CONFIGS / "deformable_R101_teaches_R50.yaml")
    teacher = load(REPOSITORY / cfg.MODEL.TEACHER_DETECTOR.CONFIG)
    assert (teacher.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.DEPTH) == (101, 50)
    for each in (cfg, teacher):
        solver, detr = each.SOLVER, each.MODEL.DETR
        assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.BACKBONE_MULTIPLIER) == (16, 2e-4, 0.1)
        assert (detr.NUM_QUERIES, detr.FFN_CHANNELS, detr.DROPOUT, detr.REFINEMENT) == (300, 1024, 0.1, "FromReference")
        assert (each.MODEL.TEACHER_DETECTOR.WEIGHTS if each is cfg else "") in (
            "",
            teacher.OUTPUT_DIR + "/model_final.pth",
        )
        assert solver.STEPS[0] / solver.MAX_ITER == pytest.approx(0.8, abs=1e-3) and solver.WEIGHT_DECAY == 1e-4


@every_taught
def test_the_teachers_weights_are_where_its_config_leaves_them(path: Path) -> None:
    named = load(path).MODEL.TEACHER_DETECTOR
    assert named.WEIGHTS == f"{load(REPOSITORY / named.CONFIG).OUTPUT_DIR}/model_final.pth"


@pytest.mark.parametrize("family", ["deformable", "conditional", "adamixer", "dk_detr"])
def test_a_mini_teacher_is_twice_as_deep_and_trained_longer_and_its_student_half_as_wide(family: str) -> None:
    teacher, student = (load(CONFIGS / "mini" / f"{family}_{role}.yaml") for role in ("teacher", "student"))
    assert teacher.MODEL.DETR.DECODER_LAYERS == 2 * student.MODEL.DETR.DECODER_LAYERS
    assert teacher.MODEL.DETR.CHANNELS == 2 * student.MODEL.DETR.CHANNELS
    assert teacher.SOLVER.MAX_ITER == 2 * student.SOLVER.MAX_ITER


def test_every_config_has_its_line_in_the_readme() -> None:
    text = (CONFIGS.parent / "README.md").read_text()
    named = set(re.findall(r"`((?:mini/)?\w+\.yaml)`", text))
    assert {str(path.relative_to(CONFIGS)) for path in ALL} <= named


def test_data_sets_of_the_teachers_config_are_not_those_of_the_run(world: World, tmp_path: Path) -> None:
    """Both may call theirs custom_train."""
    own = world.root / "mini_lvis/annotations/mini_lvis_train.json"
    named = teacher_of(OPEN, world, tmp_path / "teacher")
    config = Path(named[f"{KEY}CONFIG"])
    config.write_text(config.read_text().replace("TRAIN_JSON: ''", "TRAIN_JSON: 'other.json'"))
    files = {"DATASETS__CUSTOM__TRAIN_JSON": own, "DATASETS__CUSTOM__TRAIN_IMAGES": world.root / "mini_lvis"}
    cfg = setup_cfg(str(OPEN), world.options(**{**TWO_STEPS, **named, **files, "OUTPUT_DIR": tmp_path}))
    load_teacher(cfg)
    assert MetadataCatalog.get("custom_train").json_file == str(own)


def test_another_padding_of_the_teacher_is_warned_of(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    named = teacher_of(DEFORMABLE, world, tmp_path / "teacher", MODEL__DETR__PADDED_SIZE=128)
    build_model(setup_cfg(str(DEFORMABLE), world.options(**{**TWO_STEPS, **named})))
    assert "to MODEL.DETR.PADDED_SIZE 0; it was trained with 128" in caplog.text
