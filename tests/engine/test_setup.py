"""From the command line to a config: what is wrong is said once, in the words that the user typed."""

import logging
import sys
from pathlib import Path

import pytest
import torch
import yaml

from dk_detr.engine import one_clear_error, prepare_output, setup_cfg
from dk_detr.engine.run_folder import write_config
from tests.run_fixtures import MINI, own_log_handlers


def test_options_win_over_the_file_and_the_file_over_the_defaults() -> None:
    cfg = setup_cfg(MINI, ["SOLVER.MAX_ITER", "7"])
    assert (cfg.SOLVER.MAX_ITER, cfg.MODEL.KD.NUM_SLOTS, cfg.MODEL.KD.MIN_SIDE) == (7, 16, 4.0)


def test_without_a_gpu_the_device_is_the_cpu_unless_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert setup_cfg(MINI).MODEL.DEVICE == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert setup_cfg(MINI).MODEL.DEVICE == "cuda"
    assert setup_cfg(MINI, ["MODEL.DEVICE", "cpu"]).MODEL.DEVICE == "cpu"


def test_a_misspelt_key_is_refused_by_name_with_the_key_that_was_meant() -> None:
    with pytest.raises(ValueError, match=r"no config key MODEL.DETR.NUM_QUERY\. Did you mean MODEL.DETR.NUM_QUERIES\?"):
        setup_cfg(MINI, ["MODEL.DETR.NUM_QUERY", "7"])


def test_a_misspelt_key_in_a_file_is_refused_the_same_way(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("MODEL:\n  KD:\n    RELATIONAL:\n      WIEGHT: 2.0\n")
    with pytest.raises(ValueError, match=r"MODEL.KD.RELATIONAL.WIEGHT\. Did you mean MODEL.KD.RELATIONAL.WEIGHT\?"):
        setup_cfg(str(tmp_path / "mine.yaml"))


def test_a_key_like_no_other_is_refused_without_a_guess() -> None:
    with pytest.raises(ValueError, match=r"no config key ZZZZZ\. All keys are explained in dk_detr/config.py"):
        setup_cfg(MINI, ["ZZZZZ", "7"])


def test_an_option_without_a_value_is_refused_with_what_was_typed() -> None:
    with pytest.raises(ValueError, match="pairs KEY VALUE; 3 words were given: SEED 1 OUTPUT_DIR"):
        setup_cfg(MINI, ["SEED", "1", "OUTPUT_DIR"])


def test_a_value_of_another_type_is_refused_by_its_key() -> None:
    with pytest.raises(ValueError, match="SOLVER.BASE_LR"):
        setup_cfg(MINI, ["SOLVER.BASE_LR", "fast"])


def test_a_config_that_is_not_there_is_missed_by_name() -> None:
    with pytest.raises(FileNotFoundError, match=r"no config file nowhere.yaml \(--config-file\)"):
        setup_cfg("nowhere.yaml")


def test_a_base_that_is_not_there_is_missed_by_name(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text('_BASE_: "nowhere.yaml"\n')
    with pytest.raises(FileNotFoundError, match="nowhere.yaml"):
        setup_cfg(str(tmp_path / "mine.yaml"))


def test_a_file_that_is_no_yaml_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("MODEL: [1, 2\n")
    with pytest.raises(ValueError, match="mine.yaml"):
        setup_cfg(str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize("place", ["mine.yaml", "base.yaml"])
def test_a_config_that_would_run_something_is_refused_in_one_line_and_runs_nothing(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text('_BASE_: "base.yaml"\n')
    (tmp_path / place).write_text('SEED: 1\nOUTPUT_DIR: !!python/object/apply:os.system ["touch sprung"]\n')
    with pytest.raises(ValueError) as error:
        setup_cfg("mine.yaml")
    assert str(error.value).startswith(f"{place}, line 2: !!python/object/apply:os.system is more than data")
    assert "\n" not in str(error.value) and not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "content, said",
    [
        ("[1, 2]", "mine.yaml is no config: wanted keys with values"),
        ("", "is no config: wanted keys with values"),
        ("MODEL: 3", "MODEL is a group of keys, not a single value"),
        ("MODEL: [1", "mine.yaml, line 1: no YAML: while parsing a flow sequence"),
        ("_BASE_: mine.yaml", "mine.yaml is its own _BASE_"),
        ("_BASE_: 3", "or a _BASE_ of it, is no config"),
        ("VERSION: 1", "mine.yaml is no config: .* VERSION 2"),
        ("SEED: 2020-01-01", "Key SEED with value"),
        ("PROJECTS: projects.ViLD.vild", "PROJECTS is a list of packages"),
        ("\x00", "mine.yaml is no YAML file"),
    ],
)
def test_a_file_that_is_no_config_is_refused_in_one_line(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(content)
    with pytest.raises(ValueError, match=said) as error:
        setup_cfg(str(tmp_path / "mine.yaml"))
    assert "\n" not in str(error.value)


# ---- the device ----


def named_in_a_file(device: str, folder: Path) -> str:
    (folder / "config.yaml").write_text(f'MODEL:\n  DEVICE: "{device}"\n')
    return str(folder / "config.yaml")


def test_the_config_of_a_run_on_a_gpu_serves_without_one_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    path = named_in_a_file("cuda", tmp_path)
    assert setup_cfg(path).MODEL.DEVICE == setup_cfg(path).MODEL.DEVICE == "cpu"
    assert caplog.text.count(f"{path} names MODEL.DEVICE cuda, but torch finds no CUDA") == 1


def test_a_device_that_was_asked_for_and_is_not_there_is_refused_with_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="MODEL.DEVICE cuda:1: torch finds no CUDA .* `MODEL.DEVICE cpu`"):
        setup_cfg(MINI, ["MODEL.DEVICE", "cuda:1"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert setup_cfg(MINI, ["MODEL.DEVICE", "cuda:1"]).MODEL.DEVICE == "cuda:1"
    with pytest.raises(ValueError, match="MODEL.DEVICE cuda:2: this machine has 2 GPUs, counted from 0"):
        setup_cfg(MINI, ["MODEL.DEVICE", "cuda:2"])


def test_what_is_no_device_is_refused_wherever_it_is_named(tmp_path: Path) -> None:
    for config, opts in ((MINI, ["MODEL.DEVICE", "gpu"]), (named_in_a_file("gpu", tmp_path), [])):
        with pytest.raises(ValueError, match='MODEL.DEVICE "gpu" is no device: use cuda, cuda:1 or cpu'):
            setup_cfg(config, opts)


def test_the_config_of_a_run_can_be_read_back(tmp_path: Path) -> None:
    cfg = setup_cfg(MINI, ["OUTPUT_DIR", str(tmp_path / "run")])
    with own_log_handlers():
        prepare_output(cfg, cfg.OUTPUT_DIR).info("said in the log")
    write_config(cfg, cfg.OUTPUT_DIR)
    again = setup_cfg(str(tmp_path / "run" / "config.yaml"))
    assert yaml.safe_load(again.dump()) == yaml.safe_load(cfg.dump())
    assert "said in the log" in (tmp_path / "run" / "log.txt").read_text()


def test_a_run_of_the_same_name_in_another_folder_has_a_log_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        monkeypatch.chdir(tmp_path / place)
        with own_log_handlers():
            prepare_output(setup_cfg(MINI), "run").info("said " + place)
    assert "said there" in (tmp_path / "there" / "run" / "log.txt").read_text()
    assert "said there" not in (tmp_path / "here" / "run" / "log.txt").read_text()


def test_each_process_has_a_log_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda: 1)
    with own_log_handlers():
        prepare_output(setup_cfg(MINI), str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["log.txt.rank1"]


@pytest.mark.parametrize("error", [ValueError, OSError, ImportError, FloatingPointError, RuntimeError])
def test_what_a_user_can_mend_ends_in_one_line(error: type[Exception], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end, one_clear_error():
        raise error("the box has no width")
    assert end.value.code == 1
    assert capsys.readouterr().err == "error: the box has no width\n"


def test_what_only_we_can_mend_keeps_its_traceback() -> None:
    with pytest.raises(IndexError), one_clear_error():
        raise IndexError("a bug")


def test_the_traceback_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DK_DETR_TRACEBACK", "1")
    with pytest.raises(ValueError), one_clear_error():
        raise ValueError("the box has no width")


def said(error: Exception, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that an error ends in."""
    with pytest.raises(SystemExit), one_clear_error():
        raise error
    line = capsys.readouterr().err
    assert line.startswith("error: ") and line.endswith("\n") and line.count("\n") == 1
    return line[len("error: ") : -1]


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("CUDA out of memory.\n  Tried to allocate 2 GiB\n", "CUDA out of memory. Tried to allocate 2 GiB"),
        ("no device\nException raised from f at a.cpp:3 (most recent call first):\nframe #0: g", "no device"),
        ("", "RuntimeError"),
    ],
)
def test_a_message_of_many_lines_is_said_in_one(message: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(RuntimeError(message), capsys) == line


def test_a_missing_file_says_where_relative_paths_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = said(FileNotFoundError("There is no config file a/b.yaml (--config-file)."), capsys)
    assert asked == f"There is no config file a/b.yaml (--config-file). Relative paths start at {tmp_path}."
    assert said(FileNotFoundError("There is no file '/a/b.yaml'."), capsys) == "There is no file '/a/b.yaml'."


def test_what_ends_a_training_leaves_its_traceback_in_the_log_and_not_on_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with own_log_handlers():
        prepare_output(setup_cfg(MINI), str(tmp_path))
        try:
            raise ValueError("made to fail")
        except ValueError:
            logging.getLogger("detectron2.engine").exception("Exception during training:")
    assert "made to fail" in (tmp_path / "log.txt").read_text()
    assert "during training" not in capsys.readouterr().out


def test_of_an_error_in_a_loader_process_only_the_message_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    wrapped = "Caught ValueError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  …\n"
    with pytest.raises(SystemExit), one_clear_error():
        raise ValueError(f"{wrapped}ValueError: Image a.jpg cannot be read\n")
    assert capsys.readouterr().err == "error: Image a.jpg cannot be read\n"
    assert sys.exc_info() == (None, None, None)
