"""RegionCLIP's detector: every config trains or evaluates; what it recognises, proposes and refuses."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torchvision.ops import roi_align

from dk_detr.engine import setup_cfg
from dk_detr.engine.checkpoint import StrictCheckpointer
from dk_detr.engine.predictor import Predictor
from dk_detr.engine.run_folder import read_results
from dk_detr.structures import Vocabulary
from tests.model_fixtures import fixed_seed
from tests.projects.regionclip.region_fixtures import (
    CONFIGS,
    KEY,
    config,
    first_stage,
    options,
    proposal_network,
    tiny,
)
from tests.run_fixtures import SIDE, World, resume_after_the_first, state_of, words, world_with_masks

ALL = sorted(p for p in CONFIGS.rglob("*.yaml") if not p.name.startswith(("Base-", "localizer_", "pretrain")))
IDS = [str(path.relative_to(CONFIGS)) for path in ALL]
every_config = pytest.mark.parametrize("path", ALL, ids=IDS)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return world_with_masks(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def localizer(world: World) -> dict[str, Any]:
    return proposal_network(world, world.root / "localizer")


def sample(size: tuple[int, int] = (SIDE, SIDE), seed: int = 0) -> dict[str, Any]:
    """One image with two objects of base words."""
    dice = torch.Generator().manual_seed(seed)
    objects = Instances(size)
    objects.gt_boxes = Boxes(torch.tensor([[4.0, 6.0, 30.0, 40.0], [20.0, 8.0, 50.0, 60.0]]))
    objects.gt_classes = torch.tensor([0, 1])
    image = torch.randint(256, (3, *size), generator=dice).float()
    return {"image": image, "instances": objects, "file_name": "a.jpg", "objects": objects.gt_boxes}


@every_config
def test_every_config_trains_or_is_evaluated(
    path: Path, world: World, localizer: dict[str, Any], tmp_path: Path
) -> None:
    given = options(world, **localizer)
    if path.name.startswith(("zero_shot", "crops")):
        if "ViT" in path.name:
            given["MODEL__CLIP__ARCHITECTURE"] = world.root / "clip.json"
        run = world.train(tmp_path / "run", config=str(path), eval_only=True, **given)
    else:
        run = world.train(tmp_path / "run", config=str(path), **given)
        assert "No loss reaches" not in (run / "log.txt").read_text()
    results = read_results(str(run))
    assert results is not None and {"AP", "APr"} <= results["results"]["bbox"].keys()
    assert ("naming" in results["results"]) == path.stem.endswith("_gt")
    assert ("segm" in results["results"]) == ("lvis" in path.name and "transfer" in path.name)


def test_a_run_goes_on_as_if_it_had_not_been_interrupted(
    world: World, localizer: dict[str, Any], tmp_path: Path
) -> None:
    given = options(world, **localizer, DATASETS__TEST=())
    resume_after_the_first(world, tmp_path, config("transfer_lvis_RN50"), **given)


def test_one_file_holds_both_networks_and_the_localizer_never_trains(
    world: World, localizer: dict[str, Any], tmp_path: Path
) -> None:
    run = world.train(tmp_path, config=config("mini/transfer"), **options(world, **localizer, DATASETS__TEST=()))
    weights, before = state_of(run / "model_final.pth")["model"], state_of(localizer[f"{KEY}WEIGHTS"])["model"]
    kept = {name.removeprefix("localizer.network."): w for name, w in weights.items() if name.startswith("localizer.")}
    assert kept.keys() == before.keys() and all(torch.equal(w, before[name]) for name, w in kept.items())
    alone = {f"{KEY}CONFIG": localizer[f"{KEY}CONFIG"], f"{KEY}WEIGHTS": "''", f"{KEY}OPTS": []}
    cfg = setup_cfg(
        config("mini/transfer"), world.options(**options(world, **alone), MODEL__WEIGHTS=run / "model_final.pth")
    )
    assert len(Predictor(cfg)(str(world.root / "mini_lvis" / "train" / "000001.png")))


def test_zero_shot_takes_pictures_without_weights_of_a_detector(world: World, localizer: dict[str, Any]) -> None:
    cfg = setup_cfg(config("mini/zero_shot"), world.options(**options(world, **localizer)))
    assert len(Predictor(cfg)(str(world.root / "mini_lvis" / "train" / "000001.png"))) == 10
    trained = setup_cfg(config("mini/transfer"), world.options(**options(world, **localizer)))
    with pytest.raises(ValueError, match="MODEL.WEIGHTS is empty"):
        Predictor(trained)


def test_a_localizer_without_weights_is_refused(world: World, localizer: dict[str, Any]) -> None:
    detector = tiny(world, "mini/transfer", **{**localizer, f"{KEY}WEIGHTS": "''"})
    with pytest.raises(ValueError, match="The localizer has no weights: MODEL.REGIONCLIP.LOCALIZER.WEIGHTS is empty"):
        detector([sample()])
    detector = tiny(world, "mini/transfer", **{**localizer, f"{KEY}WEIGHTS": "none.pth"})
    with pytest.raises(ValueError, match="The localizer has no weights: There are no weights none.pth"):
        detector([sample()])


def test_weights_without_a_localizer_leave_it_as_it_is(
    world: World, localizer: dict[str, Any], tmp_path: Path
) -> None:
    """Detectron2's frozen norms would fill in statistics that a file lacks."""
    detector = tiny(world, "mini/transfer", **localizer)
    whole = detector.state_dict()
    before = {name: tensor.clone() for name, tensor in whole.items() if name.startswith("localizer.")}
    torch.save({name: tensor for name, tensor in whole.items() if name not in before}, tmp_path / "alone.pth")
    StrictCheckpointer(detector).load(str(tmp_path / "alone.pth"))
    assert before and all(torch.equal(tensor, detector.state_dict()[name]) for name, tensor in before.items())


def test_parts_that_a_config_does_without_are_left_out_and_named(
    world: World, localizer: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = tiny(world, "transfer_lvis_RN50", **localizer)
    StrictCheckpointer(whole, save_dir=str(tmp_path)).save("whole")
    less = tiny(world, "zero_shot_lvis_RN50_gt", MODEL__VOCABULARY__TEST=world.root / "words.npz")
    with caplog.at_level("INFO"):
        StrictCheckpointer(less).load(str(tmp_path / "whole.pth"))
    assert 'localizer, which MODEL.REGIONCLIP.REGIONS "GroundTruth" leaves out' in caplog.text
    assert "heads.mask_head, which MODEL.MASK_ON False leaves out" in caplog.text
    assert not caplog.text.count("not be loaded")


def test_masks_are_of_the_boxes_that_were_found(world: World, localizer: dict[str, Any]) -> None:
    detector = tiny(world, "transfer_lvis_RN50", **localizer)
    seen: list[torch.Tensor] = []
    detector.heads.mask_head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    given = sample()
    with torch.no_grad():
        features = detector.recognizer(detector.pixels([given]).tensor)
        found, _ = detector.name(given, detector._regions(given))
        wanted = detector.recognizer.features_of(features, [found.pred_boxes.tensor])
    torch.testing.assert_close(seen[0], wanted)


def test_nothing_learns_from_crops(world: World, localizer: dict[str, Any]) -> None:
    detector = tiny(world, "mini/crops", **localizer)
    assert not list(detector.heads.parameters() if hasattr(detector, "heads") else [])
    with pytest.raises(ValueError, match='"CLIPOnCrops" has nothing to train: evaluate it, --eval-only'):
        detector.train()([sample()])
    with pytest.raises(ValueError, match='"CLIPOnCrops" trains nothing that refines boxes or draws masks'):
        tiny(world, "mini/crops", **localizer, MODEL__REGIONCLIP__BOXES="Refined")


def test_crops_are_named_by_clip_alone(world: World) -> None:
    """By hand: the box cut out, resized, encoded, compared with words and the background."""
    detector = tiny(world, "mini/crops_gt", MODEL__ROI_HEADS__NMS_THRESH_TEST=1.0, MODEL__TEACHER__CROP_SCALES=[1.0])
    given = {**sample(), "objects": Boxes(torch.tensor([[4.0, 6.0, 30.0, 40.0]]))}
    (output,) = detector([given])
    clip = detector.clip.guest.on(detector.device)
    side = clip.image_size
    crop = roi_align(detector.pixels([given]).tensor, [given["objects"].tensor], side, aligned=True)
    rows = torch.nn.functional.normalize(clip.model.encode_image(crop), dim=-1)
    wanted = torch.cat([rows @ detector.text.T / 0.02, torch.zeros(1, 1)], dim=1).softmax(-1)[0, :-1]
    found = output["instances"]
    torch.testing.assert_close(found.scores, wanted[found.pred_classes], rtol=0.05, atol=0.02)


PINNED = {
    "transfer_lvis_RN50": ("", 0.01, 0.8, 0.0, "sigmoid", True),
    "transfer_ov_coco_RN50": ("", 0.01, 0.2, 0.5, "none", False),
}


@pytest.mark.parametrize("name", PINNED)
def test_what_the_release_trains_with(name: str, world: World) -> None:
    cfg = setup_cfg(config(name), [])
    own = cfg.MODEL.REGIONCLIP
    told = (own.TEMPERATURE, own.BACKGROUND_WEIGHT, own.FOCAL_EXPONENT, own.FUSION, cfg.MODEL.MASK_ON)
    assert told == PINNED[name][1:]


@pytest.mark.parametrize("name", ["localizer_lvis_R50_FPN", "localizer_lvis_lsj_R50_FPN", "localizer_coco_R50_C4"])
def test_every_localizer_proposes(name: str) -> None:
    network = build_model(setup_cfg(config(name), ["MODEL.DEVICE", "cpu", "MODEL.RPN.POST_NMS_TOPK_TEST", "5"])).eval()
    with torch.no_grad():
        (output,) = network([sample()])
    assert 0 < len(output["proposals"]) <= 5


def test_the_first_stage_of_a_detr_proposes(world: World, tmp_path: Path) -> None:
    detector = tiny(world, "mini/zero_shot", **first_stage(world, tmp_path))
    (proposed,) = detector.propose([sample()])
    (output,) = detector.detect_with_proposals([sample()])
    assert len(proposed) > 10 and torch.equal(output["proposals"].proposal_boxes.tensor, proposed.proposal_boxes.tensor)
    found = output["instances"].pred_boxes.tensor
    distance = (found[:, None] - proposed.proposal_boxes.tensor).abs().sum(-1).amin(1)
    assert distance.max() < 1e-3  # as proposed


def test_a_region_is_named_by_what_clip_sees_there(world: World) -> None:
    detector = tiny(world, "mini/zero_shot_gt", MODEL__ROI_HEADS__NMS_THRESH_TEST=1.0)
    given = sample()
    with torch.no_grad():
        features = detector.recognizer(detector.pixels([given]).tensor)
        rows = detector.recognizer.pool(detector.recognizer.features_of(features, [given["objects"].tensor]))
        cosines = torch.nn.functional.normalize(rows, dim=-1) @ detector.text.T / 0.02
        wanted = torch.cat([cosines, torch.zeros(2, 1)], dim=1).softmax(-1)[:, :-1]
        (output,) = detector([given])
    found = output["instances"]
    for score, word, box in zip(found.scores, found.pred_classes, found.pred_boxes.tensor):
        region = int(torch.cdist(box[None], given["objects"].tensor).argmin())
        torch.testing.assert_close(score, wanted[region, word])
    assert len(found) == 2 * len(detector.vocabulary)
    assert torch.equal(output["named"], wanted.argmax(-1))


def test_a_picture_without_objects_is_refused_where_these_are_recognised(world: World) -> None:
    detector = tiny(world, "mini/zero_shot_gt")
    given = {name: value for name, value in sample().items() if name != "objects"}
    with pytest.raises(ValueError, match="recognises the objects of a data set, and image a.jpg comes without"):
        detector([given])


def test_words_are_exchanged(world: World, localizer: dict[str, Any]) -> None:
    detector = tiny(world, "mini/zero_shot", **localizer)
    others = words(("thing", "stuff"), novel=())
    detector.set_vocabulary(Vocabulary(others.names, others.embeddings, torch.ones(2, dtype=torch.bool)))
    found = detector([sample()])[0]["instances"]
    assert set(found.pred_classes.tolist()) <= {0, 1}


def test_a_batch_of_two_equals_two_batches_of_one(world: World, localizer: dict[str, Any]) -> None:
    detector = tiny(world, "mini/transfer", **localizer)
    small, large = sample((48, 64), seed=1), sample((64, 96), seed=2)
    for together, alone in zip(detector([small, large]), [detector([small])[0], detector([large])[0]]):
        assert torch.equal(together["instances"].scores, alone["instances"].scores)


def test_norms_and_the_first_stage_stand_still(world: World, localizer: dict[str, Any]) -> None:
    detector = tiny(world, "transfer_lvis_RN50", **localizer).train()
    visual = detector.recognizer.visual
    frozen = {name for name, parameter in visual.named_parameters() if not parameter.requires_grad}
    assert {"conv1.weight", "layer1.0.conv1.weight", "layer3.0.bn1.weight"} <= frozen
    assert not {"layer2.0.conv1.weight", "attnpool.c_proj.weight", "layer4.0.conv3.weight"} & frozen
    assert not any(module.training for module in visual.modules() if isinstance(module, torch.nn.BatchNorm2d))
    assert not detector.localizer.training and not any(p.requires_grad for p in detector.localizer.parameters())


def test_every_parameter_that_trains_gets_a_gradient(world: World, localizer: dict[str, Any]) -> None:
    detector = tiny(world, "mini/transfer", **localizer).train()
    for objects in (sample(), {**sample(), "instances": sample()["instances"][:0]}):
        detector.zero_grad()
        with fixed_seed(), EventStorage():
            sum(detector([objects]).values()).backward()
        named = detector.named_parameters()
        assert not [name for name, p in named if p.requires_grad and (p.grad is None or not p.grad.isfinite().all())]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({f"{KEY}CONFIG": "''"}, 'REGIONS "Proposals" needs a network that makes them: name its config'),
    ({f"{KEY}CONFIG": "none.yaml"}, "There is no config file none.yaml (MODEL.REGIONCLIP.LOCALIZER.CONFIG)"),
    ({f"{KEY}COUNT": 0}, "MODEL.REGIONCLIP.LOCALIZER.COUNT must be at least 1, got 0"),
    ({"MODEL__REGIONCLIP__FUSION": "product"}, 'MODEL.REGIONCLIP.FUSION is "product"; choose one of none, sigmoid'),
    ({"MODEL__REGIONCLIP__NMS": "None"}, 'MODEL.REGIONCLIP.NMS is "None"; choose one of Hard, Soft'),
    ({"MODEL__REGIONCLIP__REGIONS": "GroundTruth"}, 'FUSION "sigmoid" asks for a localizer\'s objectness'),
    ({"MODEL__REGIONCLIP__TEMPERATURE": 0.0}, "MODEL.REGIONCLIP.TEMPERATURE must be above 0, got 0.0"),
    ({"MODEL__REGIONCLIP__BACKGROUND_WEIGHT": -1.0}, "BACKGROUND_WEIGHT must be 0 or more, got -1.0"),
    ({"INPUT__FORMAT": "BGR"}, 'takes images in INPUT.FORMAT "RGB"'),
    ({"MODEL__PIXEL_MEAN": [0.0, 0.0, 0.0]}, "got \"RGB\" and [0.0, 0.0, 0.0]"),
    ({"MODEL__TRAINING_EXTENSIONS": ["Distillation"]}, "takes no MODEL.TRAINING_EXTENSIONS"),
    ({"MODEL__MASK_ON": True}, "set MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK to True"),
]  # fmt: skip


@pytest.mark.parametrize(("changed", "message"), REFUSED, ids=[message[:30] for _, message in REFUSED])
def test_what_cannot_be_is_refused_when_built(
    changed: dict[str, Any], message: str, world: World, localizer: dict[str, Any]
) -> None:
    cfg = setup_cfg(config("mini/transfer"), world.options(**options(world, **{**localizer, **changed})))
    with pytest.raises((ValueError, OSError), match=re.escape(message)):
        build_model(cfg)


def test_weights_of_another_localizer_are_refused(world: World, localizer: dict[str, Any], tmp_path: Path) -> None:
    other = first_stage(world, tmp_path)
    with pytest.raises(ValueError, match="has no .* tensors of the localizer"):
        tiny(world, "mini/transfer", **{**localizer, f"{KEY}WEIGHTS": other[f"{KEY}WEIGHTS"]})


def test_of_a_localizer_with_averaged_weights_the_average_proposes(world: World, tmp_path: Path) -> None:
    keys = first_stage(world, tmp_path)
    path = Path(keys[f"{KEY}WEIGHTS"])
    content = state_of(path)
    name = "encoder.level_embed"
    content["moving_average"] = {"num_updates": 9, "weights": {name: content["model"][name] + 1}}
    torch.save(content, path)
    detector = tiny(world, "mini/transfer", **keys)
    assert torch.equal(detector.localizer.network.state_dict()[name], content["model"][name] + 1)


@pytest.mark.parametrize("name", ["mini/transfer", "mini/crops"])
def test_mixed_precision(name: str, world: World, localizer: dict[str, Any], tmp_path: Path) -> None:
    given = options(world, **localizer, SOLVER__AMP__ENABLED=True, SOLVER__AMP__DTYPE="bfloat16")
    run = world.train(tmp_path / "run", config=config(name), eval_only="crops" in name, **given)
    results = read_results(str(run))
    assert results is not None and results["results"]["bbox"]["AP"] >= 0
