"""Vocabularies on disk and from names: what is read is what was meant, or it is refused by name."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.lvis_v1_categories import LVIS_CATEGORIES

from dk_detr.data import register
from dk_detr.engine import setup_cfg
from dk_detr.language import (
    COCO_NAMES,
    LVIS_NAMES,
    WORD_LISTS,
    Clip,
    build_vocabulary,
    load_clip,
    load_vocabulary,
    prompt_texts,
    read_vocabulary,
    require_one_space,
    save_vocabulary,
    vocabularies_from_config,
    words_of_checkpoint,
)  # fmt: skip
from dk_detr.structures import Vocabulary
from tests.run_fixtures import CLIP, MINI, WIDTH, words, write_json

PETS = ("cat", "dog", "fishing_boat")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    return load_clip(architecture=write_json(tmp_path_factory.mktemp("clip") / "tiny.json", CLIP), weights="")


@pytest.fixture
def matrix() -> np.ndarray:
    """As others ship them: unnormalised half floats."""
    return (10 * np.random.default_rng(0).standard_normal((3, WIDTH))).astype(np.float16)


def save(folder: Path, matrix: Any, name: str = "matrix.npy") -> str:
    path = folder / name
    np.save(path, matrix) if path.suffix == ".npy" else torch.save(matrix, path)
    return str(path)


# ---- from names ----


def test_an_embedding_is_the_unit_mean_of_its_unit_prompts(clip: Clip) -> None:
    vocabulary = build_vocabulary(PETS, clip, "vild")
    for name, row in zip(PETS, vocabulary.embeddings):
        prompts = clip.encode_text(prompt_texts(name, "vild"))
        assert torch.allclose(prompts.norm(dim=1), torch.ones(63), atol=1e-5)
        assert torch.allclose(row, torch.nn.functional.normalize(prompts.mean(0), dim=0), atol=1e-5)


def test_a_name_means_the_same_in_any_company(clip: Clip) -> None:
    alone, together = build_vocabulary(["dog"], clip, "vild"), build_vocabulary(PETS, clip, "vild")
    assert torch.allclose(alone.embeddings[0], together.embeddings[1], atol=1e-5)


def test_a_vocabulary_knows_where_it_is_from(clip: Clip) -> None:
    vocabulary = build_vocabulary(PETS, clip, "single", novel=["dog"])
    assert vocabulary.novel.tolist() == [False, True, False]
    assert vocabulary.provenance["prompt"] == "single"
    assert vocabulary.provenance["library"] == "open_clip" and vocabulary.provenance["weights"] == "random"


def test_spaces_around_names_are_no_part_of_them(clip: Clip) -> None:
    assert build_vocabulary([" cat", "dog "], clip, "name").names == ("cat", "dog")


@pytest.mark.parametrize("names", [(), ("cat", ""), ("cat", "  ")])
def test_empty_names_are_refused(names: tuple[str, ...], clip: Clip) -> None:
    with pytest.raises(ValueError, match="an empty one was given"):
        build_vocabulary(names, clip)


def test_repeated_names_are_refused_by_name(clip: Clip) -> None:
    with pytest.raises(ValueError, match='repeated: "cat"'):
        build_vocabulary(["cat", "dog", "cat "], clip, "name")


def test_a_novel_name_that_is_no_name_is_refused(clip: Clip) -> None:
    with pytest.raises(ValueError, match='the first unknown is "yak"'):
        build_vocabulary(PETS, clip, "name", novel=["dog", "yak"])


# ---- there and back ----


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    saved = Vocabulary(("ö", "b_(c)", "d"), words().embeddings, torch.tensor([True, False, True]), {"encoder": "mine"})
    path = str(tmp_path / "below" / "words.npz")
    save_vocabulary(saved, path)
    loaded = load_vocabulary(path)
    assert loaded.names == saved.names
    assert torch.allclose(loaded.embeddings, saved.embeddings, atol=1e-7)
    assert torch.equal(loaded.novel, saved.novel)
    assert loaded.provenance == {"encoder": "mine", "file": path}


def test_saving_again_replaces_and_leaves_nothing_beside(tmp_path: Path) -> None:
    for names in (("a", "b", "c"), PETS):
        save_vocabulary(words(names, novel=()), str(tmp_path / "words.npz"))
    assert load_vocabulary(str(tmp_path / "words.npz")).names == PETS
    assert [path.name for path in tmp_path.iterdir()] == ["words.npz"]


def test_the_novel_words_of_a_file_can_be_named_anew(tmp_path: Path) -> None:
    save_vocabulary(words(PETS, novel=("cat",)), str(tmp_path / "words.npz"))
    assert load_vocabulary(str(tmp_path / "words.npz")).novel_names == ("cat",)
    assert load_vocabulary(str(tmp_path / "words.npz"), novel=["dog"]).novel_names == ("dog",)
    with pytest.raises(ValueError, match='"yak"'):
        load_vocabulary(str(tmp_path / "words.npz"), novel=["yak"])


# ---- the matrices of others ----


@pytest.mark.parametrize("name", ["matrix.npy", "matrix.pt"])
def test_a_bare_matrix_is_normalised(name: str, tmp_path: Path, matrix: np.ndarray) -> None:
    content = matrix if name.endswith(".npy") else torch.from_numpy(matrix)
    vocabulary = load_vocabulary(save(tmp_path, content, name), PETS, novel=["cat"])
    full = torch.from_numpy(matrix.astype(np.float32))
    assert vocabulary.embeddings.dtype == torch.float32
    assert torch.allclose(vocabulary.embeddings, full / full.norm(dim=1, keepdim=True), atol=1e-6)
    assert (vocabulary.names, vocabulary.novel_names) == (PETS, ("cat",))


def test_a_bare_matrix_without_names_is_refused(tmp_path: Path, matrix: np.ndarray) -> None:
    with pytest.raises(ValueError, match="matrix.npy holds a bare matrix without names"):
        load_vocabulary(save(tmp_path, matrix))


def test_another_number_of_rows_than_names_is_refused_with_both(tmp_path: Path, matrix: np.ndarray) -> None:
    with pytest.raises(ValueError, match="matrix.npy has 3 rows, but there are 2 names"):
        load_vocabulary(save(tmp_path, matrix), PETS[:2])


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
@pytest.mark.parametrize("name", ["matrix.npy", "matrix.pt"])
def test_a_row_that_is_zero_or_not_finite_is_refused(
    value: float, name: str, tmp_path: Path, matrix: np.ndarray
) -> None:
    matrix[1] = value
    content = matrix if name.endswith(".npy") else torch.from_numpy(matrix)
    with pytest.raises(ValueError, match=f"{name} holds text embeddings that are zero or not finite"):
        load_vocabulary(save(tmp_path, content, name), PETS)


@pytest.mark.parametrize("shape", [(WIDTH,), (3, 2, WIDTH)])
def test_what_is_no_matrix_is_refused_with_its_shape(shape: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"should hold a \(K, E\) matrix") as error:
        load_vocabulary(save(tmp_path, np.ones(shape, np.float32)), PETS)
    assert str(shape) in str(error.value)


def test_another_kind_of_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("cat, dog")
    with pytest.raises(ValueError, match="not .*words.txt"):
        load_vocabulary(str(tmp_path / "words.txt"), PETS)


def test_a_file_that_is_not_there_is_missed_by_name_and_key() -> None:
    for read in (load_vocabulary, read_vocabulary):
        with pytest.raises(FileNotFoundError, match=r"no vocabulary nowhere.npz \(MODEL.VOCABULARY.TEST\)"):
            read("nowhere.npz")


@pytest.mark.parametrize("name", ["words.npz", "matrix.npy", "matrix.pt"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.98])
def test_a_file_that_is_cut_short_is_refused_by_name(
    name: str, share: float, tmp_path: Path, matrix: np.ndarray
) -> None:
    path = tmp_path / name
    if name == "words.npz":
        save_vocabulary(words(PETS, novel=()), str(path))
    else:
        save(tmp_path, matrix if name.endswith(".npy") else torch.from_numpy(matrix), name)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=name):
        load_vocabulary(str(path), PETS)


def test_an_npz_of_another_make_is_refused_by_name(tmp_path: Path, matrix: np.ndarray) -> None:
    np.savez(tmp_path / "other.npz", embeddings=matrix)
    with pytest.raises(ValueError, match="other.npz is no whole vocabulary"):
        load_vocabulary(str(tmp_path / "other.npz"))


def test_a_pt_file_of_something_else_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="state.pt"):
        load_vocabulary(save(tmp_path, {"weight": torch.ones(3)}, "state.pt"), PETS)


# ---- as a config asks for them ----


def test_1203_rows_are_lvis_in_the_order_of_its_ids_with_the_rare_novel(tmp_path: Path) -> None:
    vocabulary = read_vocabulary(save(tmp_path, np.ones((1203, 4), np.float16)))
    assert vocabulary.names == LVIS_NAMES
    assert (vocabulary.names[0], vocabulary.names[-1]) == ("aerosol_can", "zucchini")
    rare = tuple(c["name"] for c in sorted(LVIS_CATEGORIES, key=lambda c: c["id"]) if c["frequency"] == "r")
    assert vocabulary.novel_names == rare and len(rare) == 337
    assert len(vocabulary.base()) == 866


def test_80_rows_are_coco_without_novel_names(tmp_path: Path) -> None:
    vocabulary = read_vocabulary(save(tmp_path, np.ones((80, 4), np.float16)))
    assert vocabulary.names == COCO_NAMES and vocabulary.novel_names == ()
    assert (vocabulary.names[0], vocabulary.names[-1]) == ("person", "toothbrush")


def test_any_other_number_of_rows_is_refused_with_those_that_are_understood(tmp_path: Path) -> None:
    understood = r"has 81 rows.*lvis \(1203\), coco \(80\), voc \(20\).*build_vocabulary.py --annotations"
    with pytest.raises(ValueError, match=understood):
        read_vocabulary(save(tmp_path, np.ones((81, 4), np.float16)))


def test_20_rows_are_voc(tmp_path: Path) -> None:
    vocabulary = read_vocabulary(save(tmp_path, torch.eye(20, dtype=torch.float16), "voc.pt"))
    assert (vocabulary.names[0], vocabulary.names[-1], vocabulary.novel_names) == ("aeroplane", "tvmonitor", ())


@pytest.fixture
def zoo(tmp_path: Path) -> Iterator[str]:
    """A data set of 20 animals, no VOC, in no order; the last is rare."""
    categories = [{"id": 100 - i, "name": f"animal {i}", **({"frequency": "r"} if i == 0 else {})} for i in range(20)]
    path = write_json(tmp_path / "zoo.json", {"images": [], "annotations": [], "categories": categories})
    register("zoo_val", path, str(tmp_path))
    yield "zoo_val"
    DatasetCatalog.remove("zoo_val")
    MetadataCatalog.remove("zoo_val")


def test_as_many_rows_as_a_data_set_has_categories_are_of_these_by_ascending_id(zoo: str, tmp_path: Path) -> None:
    vocabulary = read_vocabulary(save(tmp_path, torch.eye(20), "zoo.pt"), zoo)
    assert vocabulary.names == tuple(f"animal {19 - i}" for i in range(20)) and vocabulary.novel_names == ("animal 0",)
    assert torch.equal(vocabulary.embeddings, torch.eye(20))


def test_a_matrix_of_a_whole_benchmark_will_do_for_a_data_set_of_some_of_its_names(zoo: str, tmp_path: Path) -> None:
    assert read_vocabulary(save(tmp_path, np.eye(80, dtype=np.float32)), zoo).names == COCO_NAMES


def test_a_data_set_of_ones_own_is_no_benchmark_whatever_its_name_begins_with(zoo: str, tmp_path: Path) -> None:
    """Its 20 rows are its own categories in the order of their ids, not those of VOC."""
    json_file = MetadataCatalog.get(zoo).json_file
    register("voc_of_my_own", json_file, str(tmp_path))
    try:
        names = read_vocabulary(save(tmp_path, torch.eye(20), "mine.pt"), "voc_of_my_own").names
    finally:
        DatasetCatalog.remove("voc_of_my_own")
        MetadataCatalog.remove("voc_of_my_own")
    assert names == tuple(f"animal {19 - i}" for i in range(20))


def test_rows_of_nothing_are_refused_with_the_data_set_and_the_way_out(zoo: str, tmp_path: Path) -> None:
    path = save(tmp_path, np.eye(21, dtype=np.float32))
    said = rf"{path} \(OF\) has 21 rows.* zoo_val \(20\).*build_vocabulary.py --annotations JSON --embeddings {path}"
    with pytest.raises(ValueError, match=said):
        read_vocabulary(path, zoo, "OF")


def test_the_one_test_set_of_a_config_says_what_the_rows_of_test_are(zoo: str, tmp_path: Path) -> None:
    path = save(tmp_path, torch.eye(20), "zoo.pt")
    for tests, first in (((zoo,), "animal 19"), ((zoo, "coco_2017_val"), "aeroplane")):
        _, test = vocabularies_from_config(
            setup_cfg(MINI, ["MODEL.VOCABULARY.TEST", path, "DATASETS.TEST", str(tests)])
        )
        assert test.names[0] == first


@pytest.mark.parametrize(("file", "dataset"), [("lvis_v1_clip_a+cname.npy", "lvis"), ("coco_clip_a+cname.npy", "coco")])
def test_the_matrices_that_others_ship_are_of_one_space(file: str, dataset: str) -> None:
    folder = Path(os.environ.get("DK_DETR_VOCABULARIES", ""))
    if not (folder / file).is_file():
        pytest.skip(f"{file} is not there; DK_DETR_VOCABULARIES names its folder")
    words = read_vocabulary(str(folder / file))
    assert words.names == WORD_LISTS[dataset][0]
    require_one_space(words, read_vocabulary(str(folder / "lvis_v1_clip_a+cname.npy")))


def test_an_empty_path_is_refused_by_its_key() -> None:
    with pytest.raises(ValueError, match="MODEL.VOCABULARY.TEST is empty"):
        read_vocabulary("")


def vocabularies(**paths: Path) -> tuple[Vocabulary, Vocabulary]:
    opts = [word for key, path in paths.items() for word in (f"MODEL.VOCABULARY.{key}", str(path))]
    return vocabularies_from_config(setup_cfg(MINI, opts))


def test_the_words_of_training_are_the_base_words_of_test(tmp_path: Path) -> None:
    save_vocabulary(words(PETS, novel=("cat",)), str(tmp_path / "test.npz"))
    train, test = vocabularies(TEST=tmp_path / "test.npz")
    assert train.names == ("dog", "fishing_boat") and test.names == PETS
    assert torch.equal(train.embeddings, test.embeddings[1:])


def test_words_of_training_may_be_given_apart_and_their_novel_ones_are_left_out(tmp_path: Path) -> None:
    save_vocabulary(words(PETS, novel=("cat",)), str(tmp_path / "train.npz"))
    save_vocabulary(words(("yak", "gnu", "emu"), novel=()), str(tmp_path / "test.npz"))
    train, test = vocabularies(TEST=tmp_path / "test.npz", TRAIN=tmp_path / "train.npz")
    assert train.names == ("dog", "fishing_boat") and test.names == ("yak", "gnu", "emu")


def test_words_of_different_encoders_are_refused_with_both_files(tmp_path: Path) -> None:
    save_vocabulary(words(PETS, novel=()), str(tmp_path / "train.npz"))
    save_vocabulary(words(PETS, width=24, novel=()), str(tmp_path / "test.npz"))
    with pytest.raises(ValueError, match="train.npz.*test.npz.*their widths differ"):
        vocabularies(TEST=tmp_path / "test.npz", TRAIN=tmp_path / "train.npz")


def test_novel_words_only_are_refused(tmp_path: Path) -> None:
    save_vocabulary(words(PETS, novel=PETS), str(tmp_path / "test.npz"))
    with pytest.raises(ValueError, match="All 3 names of the vocabulary are novel"):
        vocabularies(TEST=tmp_path / "test.npz")


def test_the_provenance_on_disk_is_readable_json(tmp_path: Path) -> None:
    save_vocabulary(words(PETS, novel=()), str(tmp_path / "words.npz"))
    with np.load(tmp_path / "words.npz") as file:
        assert json.loads(str(file["provenance"])) == {}


# ---- of a detector that knows a fixed list of words ----


def closed(**sources: Any) -> tuple[Vocabulary, Vocabulary]:
    opts = [word for key, source in sources.items() for word in (f"MODEL.VOCABULARY.{key}", str(source))]
    return vocabularies_from_config(setup_cfg(MINI, ["MODEL.DETR.CLASSIFIER.NAME", "Linear", *opts]))


def test_well_known_words_need_no_file() -> None:
    train, test = closed(TEST="coco")
    assert test.names == train.names == COCO_NAMES and torch.equal(test.embeddings, torch.eye(80))
    train, test = closed(TEST="lvis")
    assert test.names == LVIS_NAMES and len(test.novel_names) == 337
    assert len(train) == 866 and torch.equal(train.embeddings, torch.eye(1203)[~test.novel])


def test_of_a_vocabulary_file_the_names_count_and_each_is_an_axis(tmp_path: Path) -> None:
    save_vocabulary(words(PETS, novel=("cat",)), str(tmp_path / "pets.npz"))
    train, test = closed(TEST=tmp_path / "pets.npz")
    assert test.names == PETS and torch.equal(test.embeddings, torch.eye(3))
    assert train.names == PETS[1:] and torch.equal(train.embeddings, torch.eye(3)[1:])
    assert "pets.npz (closed)" in test.describe()


def test_a_closed_list_may_be_trained_in_part_but_with_no_other_words(tmp_path: Path) -> None:
    save_vocabulary(words(("dog", "cat"), novel=("cat",)), str(tmp_path / "some.npz"))
    save_vocabulary(words(("dog", "unicorn"), novel=()), str(tmp_path / "other.npz"))
    train, test = closed(TEST="coco", TRAIN=tmp_path / "some.npz")
    assert train.names == ("dog",) and torch.equal(train.embeddings, test.select(["dog"]).embeddings)
    with pytest.raises(ValueError, match=r'coco \(closed\)\) lacks 1 of 2 .* "unicorn"\. .*"CosineText" takes any'):
        closed(TEST="coco", TRAIN=tmp_path / "other.npz")


def test_a_list_that_is_not_known_is_refused_with_those_that_are() -> None:
    with pytest.raises(FileNotFoundError, match=r"no vocabulary koko \(MODEL.VOCABULARY.TEST\).* one of lvis, coco"):
        closed(TEST="koko")
    with pytest.raises(ValueError, match="MODEL.VOCABULARY.TEST is empty"):
        closed(TEST="")


# ---- of a checkpoint ----


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    """A checkpoint that says two words of its training, in half floats; a third was novel, and has the last axis."""
    said = {"names": ["dog", "cat"], "embeddings": torch.eye(3)[:2].half() * 2, "provenance": {"prompt": "name"}}
    torch.save({"model": {"weight": torch.ones(3)}, "words": said}, tmp_path / "model.pth")
    return str(tmp_path / "model.pth")


def test_a_checkpoint_says_the_words_of_its_training_with_unit_rows_and_none_of_them_novel(checkpoint: str) -> None:
    found = read_vocabulary(checkpoint)
    assert found.names == ("dog", "cat") and not found.novel.any() and torch.equal(found.embeddings, torch.eye(3)[:2])
    assert found.provenance == {"prompt": "name", "file": checkpoint}


def test_other_files_of_pytorch_say_no_words(tmp_path: Path) -> None:
    for content in ({"model": {}}, torch.eye(3), [1]):
        torch.save(content, tmp_path / "other.pth")
        assert words_of_checkpoint(str(tmp_path / "other.pth")) is None
    torch.save(torch.eye(3), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert words_of_checkpoint(str(tmp_path / "old.pt")) is None
    assert words_of_checkpoint("model.safetensors") is None


def test_a_closed_detector_takes_the_words_of_its_checkpoint_where_that_says_all(
    checkpoint: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"model.pth \(MODEL.VOCABULARY.TEST\) says 2 words .* knows 3: the others"):
        closed(TEST=checkpoint)
    content = torch.load(checkpoint)
    content["words"]["embeddings"] = torch.eye(2).half()
    torch.save(content, tmp_path / "all.pth")
    train, test = closed(TEST=tmp_path / "all.pth")
    assert train.names == test.names == ("dog", "cat") and torch.equal(test.embeddings, torch.eye(2))
