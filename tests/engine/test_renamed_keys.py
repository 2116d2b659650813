"""Configs of earlier versions: every renamed key and value is refused with its new name, wherever it is written."""

from pathlib import Path

import pytest

from dk_detr.engine import renamed_keys, setup_cfg
from dk_detr.engine.renamed_keys import by_dotted_key
from tests.run_fixtures import MINI

OURS = {**renamed_keys.KEYS}


@pytest.fixture(autouse=True)
def tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another history than ours, so that these tests do not depend on it."""
    keys = {
        "DATASETS.OWN": ("DATASETS.CUSTOM", ""),
        "MODEL.OLD": ("MODEL.NEW_PARTS", '"a" is "b"'),
        "SEED": ("MODEL.SEED", ""),
        "MODEL.DETR.QUERY": ("MODEL.DETR.QUERIES", ""),
    }
    monkeypatch.setattr(renamed_keys, "KEYS", keys)
    values = {"MODEL.DETR.QUERIES": {"Boxes": "Proposals"}, "MODEL.DETR.HEADS": {"PerLayer": "Each"}}
    monkeypatch.setattr(renamed_keys, "VALUES", values)


def refused(content: str, folder: Path, opts: tuple[str, ...] = ()) -> str:
    """What is said of a config file."""
    (folder / "mine.yaml").write_text(content)
    with pytest.raises(ValueError) as error:
        setup_cfg(str(folder / "mine.yaml"), opts)
    return str(error.value)


def test_a_renamed_key_in_a_file_is_refused_with_its_new_name(tmp_path: Path) -> None:
    assert refused("MODEL: {OLD: a}", tmp_path) == 'MODEL.OLD is called MODEL.NEW_PARTS now ("a" is "b").'


def test_a_renamed_key_in_a_base_is_refused_the_same_way(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("MODEL: {DETR: {QUERY: Learned}}")
    assert refused("_BASE_: base.yaml", tmp_path) == "MODEL.DETR.QUERY is called MODEL.DETR.QUERIES now."


def test_a_renamed_key_on_the_command_line_is_refused_the_same_way() -> None:
    with pytest.raises(ValueError, match=r"^MODEL.DETR.QUERY is called MODEL.DETR.QUERIES now\.$"):
        setup_cfg(MINI, ["MODEL.DETR.QUERY", "Learned"])


def test_a_renamed_group_is_refused_once_for_all_its_keys(tmp_path: Path) -> None:
    said = "DATASETS.OWN is called DATASETS.CUSTOM now."
    assert refused("DATASETS: {OWN: {TRAIN_JSON: a.json, NOVEL: x}}", tmp_path) == said
    with pytest.raises(ValueError, match=said):
        setup_cfg(MINI, ["DATASETS.OWN.TRAIN_JSON", "a.json"])


def test_all_that_has_another_name_now_is_said_at_once(tmp_path: Path) -> None:
    said = refused("MODEL: {DETR: {QUERIES: Boxes, QUERY: x}}", tmp_path, ("MODEL.OLD", "a"))
    assert said == (
        'MODEL.OLD is called MODEL.NEW_PARTS now ("a" is "b"). MODEL.DETR.QUERY is called MODEL.DETR.QUERIES now. '
        'MODEL.DETR.QUERIES "Boxes" is called "Proposals" now.'
    )


def test_a_renamed_value_is_refused_with_its_new_name_in_quotes_or_not(tmp_path: Path) -> None:
    said = 'MODEL.DETR.QUERIES "Boxes" is called "Proposals" now.'
    assert refused("MODEL: {DETR: {QUERIES: Boxes}}", tmp_path) == said
    for typed in ("Boxes", "'Boxes'", '"Boxes"'):
        with pytest.raises(ValueError, match=said):
            setup_cfg(MINI, ["MODEL.DETR.QUERIES", typed])


def test_a_name_that_the_config_still_has_is_not_refused() -> None:
    cfg = setup_cfg(MINI, ["SEED", "7", "MODEL.DETR.HEADS", "PerLayer"])
    assert (cfg.SEED, cfg.MODEL.DETR.HEADS) == (7, "PerLayer")


def test_a_key_that_begins_like_a_renamed_one_is_only_unknown(tmp_path: Path) -> None:
    assert refused("DATASETS: {OWNER: me}", tmp_path).startswith("There is no config key DATASETS.OWNER.")


def test_nested_groups_become_dotted_keys_whatever_their_keys_are() -> None:
    assert by_dotted_key({"A": {"B": {"C": 1}, 2: [3]}, "D": None}) == {"A.B.C": 1, "A.2": [3], "D": None}


def test_every_renamed_key_of_ours_is_gone_and_its_new_name_is_there() -> None:
    names = [f"{key}." for key in by_dotted_key(setup_cfg(MINI))]
    for old, (new, _) in OURS.items():
        there = [any(name.startswith(f"{key}.") for name in names) for key in (old, new)]
        assert there == [False, True], f"{old} -> {new}"
