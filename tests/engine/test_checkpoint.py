"""StrictCheckpointer: takes weights that belong to the detector, and refuses all others by name."""

import argparse
import copy
import math
import os
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from safetensors.torch import save_file
from torch import nn

from dk_detr.convert import likely_source
from dk_detr.convert.reading import read_content, weights_in
from dk_detr.engine import setup_cfg
from dk_detr.engine.checkpoint import StrictCheckpointer
from dk_detr.engine.setup import for_inference
from tests import model_fixtures
from tests.model_fixtures import closed_vocabulary, configured_detector, stir
from tests.run_fixtures import MINI, REPOSITORY, World, assert_same_training


def mini(name: str) -> str:
    return str(REPOSITORY / "configs" / "mini" / f"{name}.yaml")


UNTAUGHT = mini("no_distillation")


@pytest.fixture(scope="module")
def saved(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a detector with two decoder layers and distillation."""
    folder = tmp_path_factory.mktemp("saved")
    StrictCheckpointer(detector(world, seed=1), str(folder)).save("model")
    return folder / "model.pth"


def detector(world: World, config: str = MINI, seed: int = 0, **more: Any) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(setup_cfg(config, world.options(MODEL__DETR__DECODER_LAYERS=2, **more)))


def load(model: nn.Module, path: Path) -> None:
    StrictCheckpointer(model).load(str(path))


def part(saved: Path, folder: Path, *prefixes: str) -> Path:
    """A checkpoint with only those weights of the saved one whose names begin so."""
    weights = torch.load(saved)["model"]
    torch.save({"model": {k: v for k, v in weights.items() if k.startswith(prefixes)}}, folder / "part.pth")
    return folder / "part.pth"


def same(model: nn.Module, saved: Path, prefix: str = "") -> bool:
    """Whether all weights of that name are those of the checkpoint."""
    weights = torch.load(saved)["model"]
    return all(torch.equal(v, weights[k]) for k, v in model.state_dict().items() if k.startswith(prefix))


def test_weights_come_back_as_they_were_saved(world: World, saved: Path) -> None:
    model = detector(world)
    assert not same(model, saved)
    load(model, saved)
    assert same(model, saved)


def test_a_write_that_fails_leaves_the_old_checkpoint(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpointer = StrictCheckpointer(detector(world, seed=1), str(tmp_path))
    checkpointer.save("model")
    before = (tmp_path / "model.pth").read_bytes()

    def disk_full(data: Any, path: str) -> None:
        Path(path).write_bytes(b"half of")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", disk_full)
    with pytest.raises(OSError, match="No space left"):
        checkpointer.save("model")
    assert (tmp_path / "model.pth").read_bytes() == before
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model.pth")


def test_only_the_main_process_writes(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detectron2.utils.comm.is_main_process", lambda: False)
    StrictCheckpointer(nn.Linear(1, 1), str(tmp_path)).save("model")
    assert not list(tmp_path.iterdir())


# ---- what belongs to the detector ----


def test_a_backbone_alone_may_be_loaded(world: World, saved: Path, tmp_path: Path) -> None:
    model, before = detector(world), detector(world)
    load(model, part(saved, tmp_path, "backbone."))
    assert same(model, saved, "backbone.")
    assert torch.equal(model.encoder.level_embed, before.encoder.level_embed)


def test_a_backbone_alone_is_not_evaluated(world: World, saved: Path, tmp_path: Path) -> None:
    message = refusal(detector(world).eval(), part(saved, tmp_path, "backbone."))
    assert "are not in it, for example" in message


def test_a_backbone_of_the_model_zoo_may_be_loaded(world: World, saved: Path, tmp_path: Path) -> None:
    """As detectron2://ImageNetPretrained/torchvision/R-50.pkl comes: NumPy arrays, no prefix, a classifier beside."""
    model = detector(world, MODEL__RESNETS__NORM="FrozenBN", SEED=0)
    weights = torch.load(saved)["model"].items()
    weights = {k.removeprefix("backbone."): v.numpy() for k, v in weights if k.startswith("backbone.")}
    weights["stem.fc.weight"] = np.zeros((3, 3), np.float32)
    zoo = {"model": weights, "__author__": "torchvision", "matching_heuristics": True}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(zoo))
    load(model, tmp_path / "R-50.pkl")
    assert same(model, saved, "backbone.stem.conv1.weight")
    assert same(model, saved, "backbone.res4.5.conv3.weight")


def test_a_backbone_that_is_less_deep_is_refused(world: World, saved: Path, tmp_path: Path) -> None:
    """Its blocks fit, and those that it lacks would start at random."""
    state = torch.load(part(saved, tmp_path, "backbone."))
    weights = {name: w for name, w in state["model"].items() if not name.startswith("backbone.res4.5.")}
    torch.save({"model": weights}, tmp_path / "less.pth")
    message = refusal(detector(world), tmp_path / "less.pth")
    assert "parameters of its backbone's stages are missing, for example backbone.res4.5." in message
    assert "is it as deep?" in message


def test_weights_trained_with_a_teacher_detect_without_one(world: World, saved: Path) -> None:
    model = detector(world, UNTAUGHT)
    load(model, saved)
    assert same(model, saved)


def test_weights_trained_without_a_teacher_fit_a_detector_that_has_one(world: World, tmp_path: Path) -> None:
    StrictCheckpointer(detector(world, UNTAUGHT, seed=1), str(tmp_path)).save("model")
    model = detector(world)
    load(model, tmp_path / "model.pth")
    assert same(model, tmp_path / "model.pth", "decoder.")


def test_the_teacher_and_the_words_are_not_in_a_checkpoint(world: World, saved: Path) -> None:
    names = torch.load(saved)["model"]
    assert not [name for name in names if "teacher" in name or "clip" in name or "text" in name]
    assert [name for name in names if name.startswith("extensions.")] == [TAUGHT]


WRAPPINGS = {
    "model": lambda state: {"model": state, "args": argparse.Namespace(lr=1.0, output_dir=Path("runs"))},
    "state_dict": lambda state: {"state_dict": state, "best": np.float64(0.5), "epoch": 3},
    "ema": lambda state: {"ema": {"module": state, "updates": 7}, "optimizer": {"state": {"a": {"m": state["a"]}}}},
    "teacher": lambda state: {"teacher": state},
    "model_ema": lambda state: {"model_ema": state, "scheduler": {"last_epoch": 2}},
    "module": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    "compiled": lambda state: {"model": {f"_orig_mod.module.{name}": tensor for name, tensor in state.items()}},
    "a word": lambda state: {"state_dict": {f"detector.{name}": tensor for name, tensor in state.items()}},
    "bare": lambda state: dict(state),
}


@pytest.mark.parametrize("name", WRAPPINGS)
def test_weights_are_found_wherever_a_file_keeps_them(name: str, tmp_path: Path) -> None:
    wanted = {"a": torch.ones(2), "layers.0.weight": torch.arange(6.0).view(2, 3)}
    torch.save(WRAPPINGS[name](wanted), tmp_path / "a.pth")
    assert same_weights(Holder(wanted), tmp_path / "a.pth")


class Holder(nn.Module):
    """Parameters of these names and shapes, all zero."""

    def __init__(self, wanted: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.wanted = wanted
        for name, tensor in wanted.items():
            *above, last = name.split(".")
            place: nn.Module = self
            for part in above:
                if not hasattr(place, part):
                    place.add_module(part, nn.Module())
                place = getattr(place, part)
            place.register_parameter(last, nn.Parameter(torch.zeros_like(tensor)))


def same_weights(model: Holder, path: Path) -> bool:
    load(model, path)
    return all(torch.equal(tensor, model.wanted[name]) for name, tensor in model.state_dict().items())


def test_of_several_sets_of_weights_the_models_are_loaded_and_the_others_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = {"a": torch.ones(2)}
    caplog.set_level("INFO")
    torch.save({"model": wanted, "ema": {"a": torch.zeros(2)}, "epoch": 3}, tmp_path / "a.pth")
    assert same_weights(Holder(wanted), tmp_path / "a.pth")
    assert 'the weights below "model" are read; not read are ema, epoch' in caplog.text
    torch.save({"student": wanted, "teacher": wanted}, tmp_path / "a.pth")
    message = refusal(Holder(wanted), tmp_path / "a.pth")
    assert '"student" (1 tensors), "teacher" (1 tensors), and none is called' in message


def test_safetensors_are_loaded(tmp_path: Path) -> None:
    wanted = {"a": torch.ones(2)}
    save_file(wanted, tmp_path / "a.safetensors")
    assert same_weights(Holder(wanted), tmp_path / "a.safetensors")


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("names", ["numpy._core", "numpy.core"])
def test_pickled_arrays_are_read_as_numpy_1_and_2_write_them(protocol: int, names: str, tmp_path: Path) -> None:
    wanted = {"a.w": np.arange(6, dtype=np.float32).reshape(2, 3), "a.b": np.ones(2, ">f4"), "a.n": np.int64(3)}
    arrays = OrderedDict({**wanted, "a.t": np.asfortranarray(wanted["a.w"])})
    content = pickle.dumps({"model": arrays, "__author__": "me", "steps": {1, 2}}, protocol)
    content = content.replace(b"numpy._core", names.encode()) if protocol < 4 or names == "numpy._core" else content
    (tmp_path / "a.pkl").write_bytes(content)
    found = read_content(tmp_path / "a.pkl")
    assert found["__author__"] == "me" and found["steps"] == {1, 2}
    assert all(np.array_equal(found["model"][name], array) for name, array in arrays.items())
    assert weights_in(found, tmp_path / "a.pkl").state["a.t"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_weights_of_caffe2_may_be_loaded(world: World, saved: Path, tmp_path: Path) -> None:
    """As the first Detectron wrote them: momenta beside, names of its own."""
    model = detector(world, MODEL__RESNETS__NORM="FrozenBN", SEED=0)
    stem = torch.full_like(model.backbone.stem.conv1.weight, 2.0).numpy()
    blobs = {"conv1_w": stem, "conv1_w_momentum": stem, "res2_0_branch2a_w": np.zeros((1, 1, 1, 1), np.float32)}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps({"blobs": blobs, "cfg": "A: 1"}, 2))
    found = StrictCheckpointer(model)
    found._path = "R-50.pkl"
    content = found._load_file(str(tmp_path / "R-50.pkl"))
    assert (content["__author__"], content["matching_heuristics"]) == ("Caffe2", True)
    assert content["model"].keys() == {"conv1_w", "res2_0_branch2a_w"}


# ---- names of before ----

TAUGHT = "extensions.Distillation.queries.content.weight"
OLD_NAMES: dict[str, dict[str, str]] = {  # by config: today's names, and those of before
    "dk_detr": {TAUGHT: "branch.content.weight"},
    "dn_detr": {"extensions.Denoising.content.weight": "companions.0.content.weight"},
    "dk_dino": {
        TAUGHT: "branch.companions.content.weight",
        "extensions.ContrastiveDenoising.content.weight": "companions.0.content.weight",
    },
}
RUN: dict[str, Any] = {
    "MODEL__DETR__DECODER_LAYERS": 2,
    "SOLVER__MAX_ITER": 4,
    "SOLVER__CHECKPOINT_PERIOD": 2,
    "SOLVER__BASE_LR": 0.001,
    "SOLVER__WARMUP_ITERS": 0,
    "SOLVER__EMA_DECAY": 0.9,
    "DATASETS__TEST": (),
}


@pytest.fixture(scope="module", params=OLD_NAMES)
def of_before(request: pytest.FixtureRequest, world: World, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A config, the folder of a run, and its checkpoint after two of four iterations as it was before the renaming."""
    config, names = mini(request.param), OLD_NAMES[request.param]
    run = world.train(tmp_path_factory.mktemp(request.param), config=config, **RUN)
    path = tmp_path_factory.mktemp("before") / "model_0000001.pth"
    state = torch.load(run / path.name)
    groups = state["trainer"]["_trainer"]["optimizer"]["param_groups"]
    assert names.keys() <= {name for group in groups for name in group["names"]}
    for group in groups:
        group["names"] = [names.get(name, name) for name in group["names"]]
    for holder, key in (state, "model"), (state["moving_average"], "weights"):
        assert names.keys() <= holder[key].keys()
        holder[key] = {names.get(name, name): tensor for name, tensor in holder[key].items()}
    torch.save(state, path)
    return config, run, path


def test_training_goes_on_from_names_of_before_to_the_weights_of_todays(
    of_before: tuple[str, Path, Path], world: World, tmp_path: Path
) -> None:
    config, run, path = of_before
    (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "last_checkpoint").write_text(path.name)
    world.train(tmp_path, config=config, resume=True, **RUN)
    assert_same_training(tmp_path / "model_final.pth", run / "model_final.pth")


def test_a_new_run_starts_from_the_average_under_names_of_before(
    of_before: tuple[str, Path, Path], world: World
) -> None:
    config, run, path = of_before
    average = torch.load(run / path.name)["moving_average"]["weights"]
    model = detector(world, config)
    load(model, path)
    parameters = dict(model.named_parameters())
    assert OLD_NAMES[Path(config).stem].keys() <= average.keys()
    assert all(torch.equal(weight, parameters[name]) for name, weight in average.items())


def test_a_detector_for_inference_takes_no_extension_by_either_name(
    of_before: tuple[str, Path, Path], world: World
) -> None:
    config, run, path = of_before
    average = torch.load(run / path.name)["moving_average"]["weights"]
    cfg = setup_cfg(config, world.options(MODEL__DETR__DECODER_LAYERS=2))
    for file in (path, run / path.name):
        model = build_model(for_inference(cfg)).eval()
        load(model, file)
        parameters = dict(model.named_parameters())
        assert not [name for name in parameters if name.startswith("extensions.")]
        assert all(torch.equal(average[name], weight) for name, weight in parameters.items() if weight.requires_grad)


# ---- what does not ----


class Trap:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch sprung",)


@pytest.mark.parametrize("name", ["a.pkl", "a.pth", "a.pyth"])
def test_a_file_that_would_run_something_is_refused_and_runs_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = {"model": {"a": np.ones(2, np.float32)}, "__author__": "me", "hook": Trap()}
    Path(name).write_bytes(pickle.dumps(content)) if name == "a.pkl" else torch.save(content, name)
    message = refusal(Holder({"a": torch.ones(2)}), Path(name))
    assert re.search(rf"{name} holds a Python object \(\w+.system\) besides data", message)
    assert not Path("sprung").exists() and "\n" not in message


@pytest.mark.parametrize(
    "call", [(getattr, (np.ndarray, "tofile")), (np.ndarray, ((1,), np.dtype("O"))), (np.load, ("a.npy",))]
)
def test_nothing_but_plain_arrays_is_made_from_a_pickle(call: Any, tmp_path: Path) -> None:
    caller = type("Caller", (), {"__reduce__": lambda self: call})
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"model": {"a": caller()}, "__author__": "me"}))
    refusal(Holder({"a": torch.ones(1)}), tmp_path / "a.pkl")


def test_an_array_of_objects_is_refused(tmp_path: Path) -> None:
    content = {"model": {"a": np.array([{}], object)}, "__author__": "me"}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    assert "holds no plain numbers" in refusal(Holder({"a": torch.ones(1)}), tmp_path / "a.pkl")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_no_numbers_are_refused_by_the_first_and_their_number(
    bad: float, world: World, saved: Path, tmp_path: Path
) -> None:
    weights = torch.load(saved)["model"]
    for name in ("encoder.layers.0.norm.bias", "neck.mappers.0.0.weight"):
        weights[name].view(-1)[1] = bad
    torch.save({"model": weights}, tmp_path / "a.pth")
    message = refusal(detector(world).eval(), tmp_path / "a.pth")
    assert re.search(r"a.pth: \S+ holds NaN or infinity, the first of 2 such among \d+ tensors", message)


def test_an_average_that_is_no_number_is_refused_where_a_run_goes_on(tmp_path: Path) -> None:
    broken = {"num_updates": 1, "weights": {"weight": torch.full((1, 1), math.nan)}}
    content = {"model": nn.Linear(1, 1).state_dict(), "moving_average": broken, "trainer": {}}
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="a.pth: weight holds NaN or infinity"):
        StrictCheckpointer(nn.Linear(1, 1), trainer=nn.Module()).load(str(tmp_path / "a.pth"))


@pytest.mark.parametrize(
    "source, names",
    [
        ("torchvision-resnet", ("conv1.weight", "layer1.0.conv1.weight", "layer4.0.bn1.running_mean")),
        (
            "detr",
            (
                "transformer.encoder.layers.0.self_attn.in_proj_weight",
                "transformer.decoder.layers.0.multihead_attn.in_proj_weight",
                "bbox_embed.layers.0.weight",
            ),
        ),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_weights_of_others_are_refused_with_the_command_that_converts_them(
    training: bool, source: str, names: tuple[str, ...], world: World, tmp_path: Path
) -> None:
    torch.save({"model": {name: torch.ones(1) for name in names}, "args": argparse.Namespace()}, tmp_path / "a.pth")
    message = refusal(detector(world).train(training), tmp_path / "a.pth")
    assert f"They look like {source}: convert them" in message
    assert f"python tools/convert_checkpoint.py {source} {tmp_path / 'a.pth'} a_converted.pth" in message


def test_our_own_names_look_like_nobody_elses(world: World) -> None:
    assert not likely_source(detector(world).state_dict())


def test_a_folder_is_refused_with_the_way(tmp_path: Path) -> None:
    assert "is a folder. Name the file in it." in refusal(nn.Linear(1, 1), tmp_path)
    names = ("model.decoder.layers.0.encoder_attn.q_proj.weight", "bbox_predictor.layers.0.weight")
    save_file({name: torch.ones(1) for name in names}, tmp_path / "model.safetensors")
    assert "is a folder. They look like hf-detr: convert them" in refusal(nn.Linear(1, 1), tmp_path)


# ---- parts that start new ----


@pytest.fixture
def other_words(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Makes the detector of a config for two words, where `configured_detector` makes one for three."""

    def make(name: str, **options: Any) -> Any:
        with monkeypatch.context() as patch:
            words = closed_vocabulary((False, False))
            patch.setattr(model_fixtures, "closed_vocabulary", lambda: words)
            return configured_detector(name, **options).train()

    return make


def saved_closed(name: str, folder: Path, **options: Any) -> Path:
    StrictCheckpointer(configured_detector(name, **options), str(folder)).save("closed")
    return folder / "closed.pth"


CLOSED = {  # other words; and the parts that know their number
    "deformable_detr_R50": ["classifier"],
    "detr_R50": ["classifier"],
    "dn_deformable_detr_R50": ["classifier", "extensions"],
    "dino_R50_4scale": ["classifier", "extensions", "queries"],
}


@pytest.mark.parametrize("name", CLOSED)
def test_a_closed_detector_is_trained_for_other_words_where_its_heads_may_start_new(
    name: str, other_words: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, model = saved_closed(name, tmp_path), other_words(name)
    message = refusal(model, path)
    assert f'or start what does not fit anew: MODEL.NEW_PARTS "{CLOSED[name]}".' in message
    before = copy.deepcopy(model.state_dict())
    caplog.set_level("INFO")
    StrictCheckpointer(model, new_parts=CLOSED[name]).load(str(path))
    theirs = torch.load(path)["model"]
    for key, tensor in model.state_dict().items():
        if tensor.shape == theirs[key].shape:
            assert torch.equal(tensor, theirs[key]), key
        else:
            assert torch.equal(tensor, before[key]) and key.startswith(tuple(CLOSED[name])), key
            assert f"{key}: {tuple(theirs[key].shape)} in the file, {tuple(tensor.shape)} here" in caplog.text
            assert caplog.text.count(f" {key}: ") == 1


def test_queries_and_levels_of_another_number_start_new_where_they_may(other_words: Any, tmp_path: Path) -> None:
    path = saved_closed("deformable_detr_R50", tmp_path)
    model = other_words("deformable_detr_R50", NUM_QUERIES=7, NUM_EXTRA_LEVELS=1)
    parts = ["classifier", "decoder", "encoder", "neck", "queries"]
    assert f'MODEL.NEW_PARTS "{parts}"' in refusal(model, path)
    StrictCheckpointer(model, new_parts=parts).load(str(path))
    assert model.queries.position.weight.shape[0] == 7
    theirs = torch.load(path)["model"]
    assert torch.equal(model.queries.reference.weight, theirs["queries.reference.weight"]), "what fits is taken"


def test_heads_that_are_not_in_the_file_start_new_where_they_may(
    other_words: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = saved_closed("deformable_detr_R50", tmp_path)
    weights = {key: tensor for key, tensor in torch.load(path)["model"].items() if not key.startswith("classifier.")}
    torch.save({"model": weights}, path)
    model = other_words("deformable_detr_R50")
    assert "MODEL.NEW_PARTS \"['classifier']\"" in refusal(model, path)
    caplog.set_level("INFO")
    StrictCheckpointer(model, new_parts=["classifier"]).load(str(path))
    assert torch.equal(model.encoder.level_embed, weights["encoder.level_embed"])
    assert f"classifier.projections.0.bias: not in the file, {(2,)} here" in caplog.text


def test_parts_that_the_model_does_not_have_are_left_in_the_file_where_they_may(
    other_words: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = saved_closed("deformable_detr_R50", tmp_path)
    torch.save({"model": {**torch.load(path)["model"], "masks.weight": torch.ones(2)}}, path)
    model = configured_detector("deformable_detr_R50").train()
    assert "MODEL.NEW_PARTS \"['masks']\"" in refusal(model, path)
    caplog.set_level("INFO")
    StrictCheckpointer(model, new_parts=["masks"]).load(str(path))
    assert "masks.weight: in the file, has no place here" in caplog.text


def test_extensions_that_the_model_does_not_have_are_left_in_the_file_without_being_named(tmp_path: Path) -> None:
    """They are of training: the detector is the same without them."""
    path = saved_closed("dn_deformable_detr_R50", tmp_path)
    model = configured_detector("dn_deformable_detr_R50", TRAINING_EXTENSIONS=[])
    for training in (True, False):
        stir(model.train(training))
        assert not same(model, path)
        load(model, path)
        assert same(model, path)


def test_a_part_that_is_not_named_is_refused_with_those_that_are(other_words: Any, tmp_path: Path) -> None:
    path = saved_closed("deformable_detr_R50", tmp_path)
    with pytest.raises(ValueError, match=r"MODEL.NEW_PARTS \"\['classifier', 'queries'\]\""):
        StrictCheckpointer(other_words("deformable_detr_R50", NUM_QUERIES=7), new_parts=["classifier"]).load(str(path))


def test_a_part_that_nobody_has_is_refused_by_name(other_words: Any, tmp_path: Path) -> None:
    path = saved_closed("deformable_detr_R50", tmp_path)
    with pytest.raises(ValueError, match='MODEL.NEW_PARTS names "head", which is no part; there are backbone, neck, '):
        StrictCheckpointer(other_words("deformable_detr_R50"), new_parts=["head"]).load(str(path))


def test_nothing_starts_new_in_evaluation_or_where_a_run_goes_on(other_words: Any, tmp_path: Path) -> None:
    path, model = saved_closed("deformable_detr_R50", tmp_path), other_words("deformable_detr_R50")
    for training, others in ((True, {"trainer": nn.Module()}), (False, {})):
        with pytest.raises(ValueError, match="Use the config it was trained with.$"):
            StrictCheckpointer(model.train(training), new_parts=["classifier"], **others).load(str(path))


def refusal(model: nn.Module, path: Path) -> str:
    with pytest.raises(ValueError) as error:
        load(model, path)
    assert str(path) in str(error.value)
    return str(error.value)


def test_a_detector_of_another_width_is_refused_by_the_first_key(world: World, saved: Path) -> None:
    message = refusal(detector(world, MODEL__DETR__FFN_CHANNELS=48), saved)
    assert "is of another detector: encoder.layers.0.ffn.linear1.weight has shape (32, 64)" in message
    assert "this config wants (48, 64)" in message


def test_a_detector_with_fewer_layers_in_the_file_is_refused(world: World, saved: Path) -> None:
    message = refusal(detector(world, MODEL__DETR__ENCODER_LAYERS=2), saved)
    assert "is of another detector" in message and "encoder.layers.1." in message


def test_a_detector_with_more_layers_in_the_file_is_refused(world: World, saved: Path) -> None:
    torch.manual_seed(0)
    shallow = build_model(setup_cfg(MINI, world.options()))
    assert "decoder.layers.1." in refusal(shallow, saved)


def test_half_a_detector_is_refused(world: World, saved: Path, tmp_path: Path) -> None:
    message = refusal(detector(world), part(saved, tmp_path, "backbone.", "encoder."))
    assert "are not in it, for example neck." in message


def test_another_model_is_refused(world: World, tmp_path: Path) -> None:
    torch.save({"model": nn.Linear(2, 2).state_dict()}, tmp_path / "linear.pth")
    assert "is of another detector" in refusal(detector(world), tmp_path / "linear.pth")


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04no"])
def test_a_file_that_is_no_checkpoint_is_refused(content: bytes, world: World, tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_bytes(content)
    assert "is no whole checkpoint" in refusal(detector(world), tmp_path / "model.pth")


def test_a_download_that_fails_names_the_key_and_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(path: str) -> str:
        raise URLError("no network")

    checkpointer = StrictCheckpointer(nn.Linear(2, 2))
    monkeypatch.setattr(checkpointer.path_manager, "get_local_path", no_network)
    with pytest.raises(OSError, match=r"R-50.pkl \(MODEL.WEIGHTS\) cannot be downloaded: .*no network.* fetch"):
        checkpointer.load("detectron2://ImageNetPretrained/R-50.pkl")


def test_a_checkpoint_that_is_not_there_is_missed_by_its_key() -> None:
    with pytest.raises(FileNotFoundError, match=r"There are no weights nowhere.pth \(MODEL.WEIGHTS\)"):
        StrictCheckpointer(nn.Linear(1, 1)).load("nowhere.pth")
