"""Training on annotation files of one's own: what follows from them, what is refused, the tutorial as it stands."""

import argparse
import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model

from dk_detr.commands.custom_data_options import add_keep_options, parse_with_custom_data
from dk_detr.engine import setup_cfg
from dk_detr.engine.custom_data import TRAIN, VAL
from dk_detr.engine.run_folder import read_results
from dk_detr.engine.setup import default_cfg
from dk_detr.language import load_vocabulary, vocabulary_file
from tests.run_fixtures import CLIP, MINI, NAMES, REPOSITORY, SHRUNK, World, draw_images, own_log_handlers, write_json

TOOL = "train_net.py"
TUTORIAL = REPOSITORY / "configs" / "custom_data" / "README.md"
Content = dict[str, Any]


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder: my_data/all.json in COCO's format, its images, and this project's configs beside it."""
    content = draw_images(tmp_path / "my_data" / "images")
    for image in content["images"]:
        image["file_name"] = Path(image["file_name"]).name
        del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    for category in content["categories"]:
        del category["frequency"]
    for part in ("all", "train", "val"):
        write_json(tmp_path / f"my_data/{part}.json", content)
    write_json(tmp_path / "clip.json", CLIP)
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(vocabulary_file, "load_clip", CountedLoads())
    with own_log_handlers():
        yield tmp_path


class CountedLoads:
    """Loads CLIP, and remembers how often."""

    def __init__(self) -> None:
        self.count = 0
        self.load = vocabulary_file.load_clip

    def __call__(self, *args: Any) -> Any:
        self.count += 1
        return self.load(*args)


def loads() -> int:
    return vocabulary_file.load_clip.count  # type: ignore[attr-defined, no-any-return]


def shrunk(**more: Any) -> list[str]:
    """KEY VALUE pairs; "__" for the dots of a key."""
    keys = {
        **SHRUNK, "MODEL.CLIP.ARCHITECTURE": "clip.json", "MODEL.VOCABULARY.PROMPT": "name", "SOLVER.MAX_ITER": 1,
        "SOLVER.STEPS": (), "SOLVER.WARMUP_ITERS": 0, "TEST.EVAL_PERIOD": 0,
    }  # fmt: skip
    keys |= {key.replace("__", "."): value for key, value in more.items()}
    return [str(word) for pair in keys.items() for word in pair]


OPTIONS = {
    "--train-json": "my_data/train.json",
    "--train-images": "my_data/images",
    "--val-json": "my_data/val.json",
    "--val-images": "my_data/images",
}


@pytest.fixture
def train(mine: Path, run_tool: Callable[..., int]) -> Callable[..., int]:
    """Trains one iteration with `OPTIONS` and others; an option that is None is left out. Returns the exit status."""

    def run(*flags: str, novel: str | None = None, options: dict[str, str | None] | None = None, **more: Any) -> int:
        given = {**OPTIONS, "--novel": novel, **(options or {})}
        words = [word for option, value in given.items() if value is not None for word in (option, value)]
        more = {"OUTPUT_DIR": "run", "DATASETS__TEST": (), **more} if "--evaluate" not in flags else more
        flags = tuple(flag for flag in flags if flag != "--evaluate")
        return run_tool(TOOL, "--config-file", MINI, *flags, *words, *shrunk(**{"OUTPUT_DIR": "run", **more}))

    return run


def change(path: str, edit: Callable[[Content], object]) -> None:
    content = json.loads(Path(path).read_text())
    edit(content)
    Path(path).write_text(json.dumps(content))


# ---- what follows from the files ----


def test_words_and_number_of_classes_follow_from_the_file(train: Callable[..., int]) -> None:
    assert train() == 0
    words = load_vocabulary("run/custom_vocabulary.npz")
    assert words.names == NAMES and words.novel_names == ()
    assert "3 names, 0 novel" in Path("run/log.txt").read_text()


def test_novel_names_are_hidden_from_training(train: Callable[..., int]) -> None:
    assert train(novel="blue_box, green_box") == 0
    assert load_vocabulary("run/custom_vocabulary.npz").novel_names == NAMES[1:]


def test_names_without_a_box_in_training_are_novel_where_none_are_named(train: Callable[..., int]) -> None:
    def drop_blue(content: Content) -> None:
        content["annotations"] = [box for box in content["annotations"] if box["category_id"] != 3]

    change("my_data/train.json", drop_blue)
    assert train() == 0
    assert load_vocabulary("run/custom_vocabulary.npz").novel_names == ("blue_box",)


def test_none_is_novel_where_the_list_of_novel_names_is_empty(train: Callable[..., int]) -> None:
    """Then also a name without a box is one of training."""

    def drop_blue(content: Content) -> None:
        content["annotations"] = [box for box in content["annotations"] if box["category_id"] != 3]

    change("my_data/train.json", drop_blue)
    assert train(novel="") == 0
    assert load_vocabulary("run/custom_vocabulary.npz").novel_names == ()


def test_a_category_with_a_comma_can_be_named(train: Callable[..., int]) -> None:
    for part in ("train", "val"):
        change(f"my_data/{part}.json", lambda content: content["categories"][0].update(name="nut, bolt"))
    assert train(novel='"nut, bolt"') == 0
    assert load_vocabulary("run/custom_vocabulary.npz").novel_names == ("nut, bolt",)


def test_a_novel_category_need_not_be_in_the_training_file(train: Callable[..., int]) -> None:
    def forget_red(content: Content) -> None:
        content["annotations"] = [box for box in content["annotations"] if box["category_id"] != 1]
        content["categories"] = content["categories"][1:]

    change("my_data/train.json", forget_red)
    assert train(novel="red_box") == 0
    words = load_vocabulary("run/custom_vocabulary.npz")
    assert set(words.names) == set(NAMES) and words.novel_names == ("red_box",)


def test_it_trains_evaluates_and_evaluates_again(train: Callable[..., int]) -> None:
    assert train("--evaluate", novel="blue_box") == 0
    results = read_results("run")
    assert results is not None and results["iteration"] == 1
    assert train("--evaluate", "--eval-only", novel="blue_box", MODEL__WEIGHTS="run/model_final.pth") == 0
    assert read_results("run") == results


def test_a_plain_file_is_scored_as_coco_and_one_with_lvis_fields_as_lvis(train: Callable[..., int]) -> None:
    def make_lvis(content: Content) -> None:
        for image in content["images"]:
            image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
        for category in content["categories"]:
            category["frequency"] = "c"

    change("my_data/val.json", make_lvis)
    assert train() == 0
    assert MetadataCatalog.get(TRAIN).evaluator_type == "coco"
    assert MetadataCatalog.get(VAL).evaluator_type == "lvis"


def test_the_keys_of_a_config_do_the_same_as_the_options(mine: Path, run_tool: Callable[..., int]) -> None:
    keys = {f"DATASETS.CUSTOM.{option[2:].replace('-', '_').upper()}": value for option, value in OPTIONS.items()}
    own = "".join(f"    {key.split('.')[-1]}: {value}\n" for key, value in keys.items())
    Path("mine.yaml").write_text(f"_BASE_: {MINI}\nDATASETS:\n  CUSTOM:\n{own}    NOVEL: red_box\n")
    assert run_tool(TOOL, "--config-file", "mine.yaml", *shrunk(OUTPUT_DIR="run")) == 0
    assert load_vocabulary("run/custom_vocabulary.npz").novel_names == ("red_box",)


def test_a_category_may_be_called_7(train: Callable[..., int]) -> None:
    for part in ("train", "val"):
        change(f"my_data/{part}.json", lambda content: content["categories"][0].update(name="7"))
    assert train(novel="7") == 0
    assert load_vocabulary("run/custom_vocabulary.npz").novel_names == ("7",)


def test_a_detector_that_knows_a_fixed_list_needs_no_clip(mine: Path, run_tool: Callable[..., int]) -> None:
    config = str(REPOSITORY / "configs/deformable_detr_R50.yaml")
    words = [word for pair in OPTIONS.items() for word in pair]
    options = shrunk(OUTPUT_DIR="run", MODEL__CLIP__ARCHITECTURE="nothing", INPUT__MAX_SIZE_TRAIN=64)
    assert run_tool(TOOL, "--config-file", config, *words, *options) == 0
    assert loads() == 0 and read_results("run") is not None


# ---- the vocabulary is built once ----


def forget_the_run() -> None:
    """What would keep another from starting in its folder."""
    for path in (*Path("run").glob("*.pth"), Path("run/last_checkpoint"), Path("run/results.json")):
        path.unlink()


def test_the_vocabulary_is_not_built_again_while_nothing_changes(train: Callable[..., int]) -> None:
    train()
    first = Path("run/custom_vocabulary.npz").stat().st_mtime_ns
    forget_the_run()
    train()
    assert loads() == 1 and Path("run/custom_vocabulary.npz").stat().st_mtime_ns == first


@pytest.mark.parametrize("other", [{"novel": "red_box"}, {"MODEL__VOCABULARY__PROMPT": "single"}])
def test_the_vocabulary_is_built_anew_when_something_changes(other: dict[str, str], train: Callable[..., int]) -> None:
    train()
    forget_the_run()
    train(**other)
    assert loads() == 2


# ---- refusals: one line, before anything is built ----


@pytest.fixture
def refusal(train: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one line that such a run ends with."""

    def run(*flags: str, **more: Any) -> str:
        assert train(*flags, **more) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
        assert loads() == 0 and not Path("run/custom_vocabulary.npz").exists() and not Path("run/metrics.json").exists()
        return error

    return run


@pytest.mark.parametrize(
    ("option", "key"),
    [(option, option[2:].replace("-", "_").upper()) for option in OPTIONS],
)
def test_a_missing_file_or_folder_is_refused_by_option_and_key(
    option: str, key: str, refusal: Callable[..., str]
) -> None:
    error = refusal(options={option: "nowhere"})
    assert re.search(rf"There is no (annotation file|folder) nowhere \({option}, DATASETS.CUSTOM.{key}\)", error)


@pytest.mark.parametrize("part", ["train", "val"])
def test_annotations_without_a_folder_are_refused(part: str, refusal: Callable[..., str]) -> None:
    error = refusal(options={f"--{part}-images": None})
    assert f"Where are the images of my_data/{part}.json? Name their folder (--{part}-images," in error


def test_a_folder_that_holds_other_images_is_refused_by_the_first_file(refusal: Callable[..., str]) -> None:
    error = refusal(options={"--val-images": "my_data"})
    assert "Image my_data/000001.png of my_data/val.json is not there." in error and "--val-images" in error


def test_the_last_image_that_is_not_there_is_found_before_training(refusal: Callable[..., str]) -> None:
    change("my_data/train.json", lambda content: content["images"][-1].update(file_name="gone.png"))
    assert "Image my_data/images/gone.png of my_data/train.json is not there." in refusal()


def test_a_category_of_crowds_alone_is_novel_as_nothing_of_it_is_trained_on(train: Callable[..., int]) -> None:
    def crowd_blue(content: Content) -> None:
        for box in content["annotations"]:
            box["iscrowd"] = int(box["category_id"] == 3)

    change("my_data/train.json", crowd_blue)
    assert train() == 0
    assert load_vocabulary("run/custom_vocabulary.npz").novel_names == ("blue_box",)
    assert "are crowds (iscrowd 1), and are not trained on" in Path("run/log.txt").read_text()


def test_two_names_that_the_text_encoder_reads_as_one_are_refused(
    train: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    for part in ("train", "val"):
        change(f"my_data/{part}.json", lambda content: content["categories"][0].update(name="Green Box"))
    assert train() == 1
    assert '"green_box" and "Green Box", category 1, are the same words' in capsys.readouterr().err


def test_the_default_of_older_configs_is_refused_where_it_would_mean_something_else(
    refusal: Callable[..., str],
) -> None:
    change("my_data/train.json", lambda content: content["annotations"].clear())
    error = refusal(DATASETS__CUSTOM__NOVEL="''")
    assert 'DATASETS.CUSTOM.NOVEL is "", which says that no name is novel' in error and "Write null" in error


def test_an_unknown_novel_name_is_refused_with_those_that_there_are(refusal: Callable[..., str]) -> None:
    error = refusal(novel="blue_box,bleu_box")
    assert '"bleu_box" (--novel, DATASETS.CUSTOM.NOVEL) is no category' in error
    assert "there are: red_box, green_box, blue_box" in error


def test_a_category_that_only_validation_has_is_refused_by_name(refusal: Callable[..., str]) -> None:
    change("my_data/val.json", lambda content: content["categories"].append({"id": 9, "name": "cat"}))
    error = refusal()
    assert 'my_data/val.json has a category "cat", but my_data/train.json has not' in error and "--novel" in error


def test_a_category_that_only_training_has_is_refused_by_name(refusal: Callable[..., str]) -> None:
    change("my_data/train.json", lambda content: content["categories"].append({"id": 9, "name": "cat"}))
    assert 'my_data/train.json has a category "cat", but my_data/val.json has not' in refusal()


def test_a_name_that_two_categories_share_is_refused(refusal: Callable[..., str]) -> None:
    change("my_data/train.json", lambda content: content["categories"].append({"id": 9, "name": "red_box"}))
    assert 'my_data/train.json, category 9: "red_box" is already the name of category 1' in refusal()


def test_a_name_with_spaces_around_it_is_refused(refusal: Callable[..., str]) -> None:
    change("my_data/train.json", lambda content: content["categories"][0].update(name="red_box "))
    assert "my_data/train.json, category 1: its name 'red_box ' has spaces around it" in refusal()


def test_training_without_a_box_of_a_base_category_is_refused(refusal: Callable[..., str]) -> None:
    assert "No box of my_data/train.json is of a base category" in refusal(novel=",".join(NAMES))


def test_training_with_validation_annotations_alone_is_refused(refusal: Callable[..., str]) -> None:
    error = refusal(options={"--train-json": None, "--train-images": None})
    assert "There is nothing to train with: name a file (--train-json," in error and "--eval-only" in error


def test_novel_names_without_annotations_are_refused(refusal: Callable[..., str]) -> None:
    nothing = dict.fromkeys(OPTIONS)
    error = refusal(novel="red_box", options=nothing)
    assert '"red_box" (--novel, DATASETS.CUSTOM.NOVEL) belongs to annotations' in error


# ---- the tutorial ----


def commands() -> list[list[str]]:
    """Those in the tutorial's shell blocks, word by word."""
    blocks = re.findall(r"```bash\n(.*?)```", TUTORIAL.read_text(), re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def test_the_commands_of_the_tutorial_work_in_their_order(
    mine: Path, world: World, run_tool: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("my_data/train.json").rename("my_data/few.json")
    Path("my_data/val.json").unlink()
    old_words = {"MODEL__VOCABULARY__TEST": world.root / "words.npz"}
    open_one = build_model(setup_cfg("configs/dk_detr_R50.yaml", shrunk(**old_words)))
    torch.save({"model": open_one.state_dict()}, "dk_detr.pth")
    closed = setup_cfg("configs/deformable_detr_R50.yaml", shrunk(MODEL__VOCABULARY__TEST="coco"))
    torch.save({"model": build_model(closed).state_dict()}, "deformable_detr.pth")
    tools = []
    for python, tool, *words in commands():
        assert python == "python" and tool.startswith("tools/")
        # What goes by a run's config is as small as that.
        smaller = {
            "configs/dk_detr_R50.yaml": shrunk(
                **old_words, MODEL__WEIGHTS="dk_detr.pth" if "--keep-test" in words else "''"
            ),
            "configs/deformable_detr_R50.yaml": shrunk(MODEL__WEIGHTS="deformable_detr.pth"),
        }.get(words[1], [])
        with world.in_use():
            assert run_tool(tool.removeprefix("tools/"), *words, *smaller) == 0, (tool, capsys.readouterr())
        tools.append(Path(tool).stem)
    first = ["prepare_dataset"] * 2 + ["train_net"] * 2 + ["demo"]
    assert tools == [*first, "train_net", "train_net", "interpolate_weights"]
    assert load_vocabulary("output/mine/custom_vocabulary.npz").novel_names == ("blue_box",)
    assert read_results("output/mine") is not None and loads() == 2
    assert Path("output/mine/found/detections.json").is_file()
    log = Path("output/fine_tuned/log.txt").read_text()
    assert "classifier.projections.0.bias: (80,) in the file, (3,) here" in log
    assert "| " in Path("output/kept/interpolation.md").read_text()


def test_the_config_of_the_tutorial_has_keys_that_there_are(mine: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", TUTORIAL.read_text(), re.DOTALL)
    Path("mine.yaml").write_text(block.replace("../dk_detr_R50.yaml", str(REPOSITORY / "configs/dk_detr_R50.yaml")))
    cfg = setup_cfg("mine.yaml")
    assert cfg.DATASETS.TRAIN == (TRAIN,) and cfg.DATASETS.TEST == (VAL,)
    assert cfg.MODEL.VOCABULARY.TEST == "output/dk_detr_R50/custom_vocabulary.npz"


# ---- options that keep the words from before ----


def test_options_that_keep_say_lists_of_names(monkeypatch: pytest.MonkeyPatch) -> None:
    command = "train_net.py --config-file c.yaml --keep-test a_val,b_val --keep-by interpolation MODEL.WEIGHTS x.pth"
    monkeypatch.setattr("sys.argv", command.split())
    parser = argparse.ArgumentParser()
    parser.add_argument("--config-file")
    add_keep_options(parser)
    cfg = default_cfg()
    cfg.merge_from_list(parse_with_custom_data(parser).opts)
    assert (cfg.DATASETS.KEEP, cfg.SOLVER.KEEP) == (("a_val", "b_val"), ["interpolation"])
    assert cfg.MODEL.WEIGHTS == "x.pth"
