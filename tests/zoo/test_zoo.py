"""Configs by name: one of each name, no other, and those that are like it."""

from pathlib import Path

import pytest

from dk_detr.zoo import ROOT, config_files, config_path


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("dk_detr_R50", "configs/dk_detr_R50.yaml"),
        ("dk_detr_R50.yaml", "configs/dk_detr_R50.yaml"),
        ("mini/dk_detr", "configs/mini/dk_detr.yaml"),
        ("configs/mini/dk_detr.yaml", "configs/mini/dk_detr.yaml"),
        ("mini/ladder/rated", "configs/mini/ladder/rated.yaml"),
        ("ViLD_R50", "projects/ViLD/configs/ViLD_R50.yaml"),
        ("DETRDistill/configs/mini/conditional", "projects/DETRDistill/configs/mini/conditional.yaml"),
    ],
)
def test_a_config_is_named_by_the_end_of_its_path(
    name: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert config_path(name) == ROOT / path


def test_every_config_has_a_name_and_is_found_by_its_path() -> None:
    assert len(config_files()) > 100
    for path in config_files():
        assert config_path(str(path)).samefile(ROOT / path)


def test_a_file_comes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("dk_detr_R50.yaml").touch()
    assert config_path("dk_detr_R50.yaml") == Path("dk_detr_R50.yaml")


def test_a_name_that_no_config_has_gets_those_that_are_like_it() -> None:
    with pytest.raises(FileNotFoundError, match=r"no config file dk_dtr_R50 \(--x\). Did you mean configs/dk_detr_R50"):
        config_path("dk_dtr_R50", "--x")
    with pytest.raises(FileNotFoundError, match="no config file nothing_like_it.yaml.$"):
        config_path("nothing_like_it.yaml")


def test_a_name_of_several_configs_is_refused_with_all_of_them() -> None:
    several = "configs/ablations/no_distillation.yaml, configs/mini/no_distillation.yaml"
    with pytest.raises(ValueError, match=f'^"no_distillation" is the name of several configs: {several}.$'):
        config_path("no_distillation")
