"""EmbeddingBank: what was written is read, by any process, quickly; what is damaged is refused by name."""

import json
import multiprocessing
import pickle
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch

from dk_detr.data.bank import EmbeddingBank, StoredRegions, read_manifest, write_shard
from tests.data.bank.banks import image, regions, settings, write_bank

COUNTS = {7: 3, 2: 0, 900_000_000_000: 5, 4: 1, 5: 2}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_bank(tmp_path / "bank", COUNTS)


def assert_same(one: StoredRegions, other: StoredRegions) -> None:
    assert torch.equal(one.boxes_xyxy_abs, other.boxes_xyxy_abs)
    assert torch.equal(one.objectness, other.objectness)
    assert one.embeddings.dtype == torch.float16 and torch.equal(one.embeddings, other.embeddings)


# ---- reading ----


def test_every_image_has_the_regions_that_were_written_for_it(folder: Path) -> None:
    bank = EmbeddingBank(folder)
    assert len(bank) == len(COUNTS)
    for number, count in COUNTS.items():
        assert number in bank
        assert_same(bank[number], regions(number, count))


def test_an_image_without_regions_has_none(folder: Path) -> None:
    empty = EmbeddingBank(folder)[2]
    assert len(empty) == 0 and empty.boxes_xyxy_abs.shape == (0, 4) and empty.embeddings.shape == (0, 8)


def test_the_best_are_the_first(folder: Path) -> None:
    bank = EmbeddingBank(folder)
    assert_same(bank[900_000_000_000].best(2), StoredRegions(*(x[:2] for x in vars(bank[900_000_000_000]).values())))
    assert len(bank[4].best(10)) == 1


def test_an_unknown_image_is_a_key_error_that_names_it(folder: Path) -> None:
    bank = EmbeddingBank(folder)
    for number in (1, 6, 10**15):
        assert number not in bank
        with pytest.raises(KeyError, match=f"{folder} has no image {number}"):
            bank[number]


def test_the_manifest_counts_what_is_there(folder: Path) -> None:
    manifest = EmbeddingBank(folder).manifest
    assert (manifest.images, manifest.regions) == (5, 11)
    assert manifest.bytes == sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def test_the_images_are_known_by_name_and_size(folder: Path) -> None:
    assert list(EmbeddingBank(folder).images()) == [image(number) for number in COUNTS]


def test_the_same_content_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    again = write_bank(tmp_path / "again", COUNTS)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in again.iterdir()
    }


def _sum_of(bank: EmbeddingBank, number: int) -> float:
    return float(bank[number].embeddings.float().sum())


def test_a_forked_process_reads_the_bank_of_its_parent(folder: Path) -> None:
    bank = EmbeddingBank(folder)
    expected = [_sum_of(bank, number) for number in COUNTS]
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        assert list(pool.map(_sum_of, [bank] * len(COUNTS), COUNTS)) == expected


def test_a_copy_such_as_a_spawned_process_gets_reads_the_same(folder: Path) -> None:
    bank = EmbeddingBank(folder)
    copy = pickle.loads(pickle.dumps(bank))
    for number in COUNTS:
        assert_same(copy[number], bank[number])
    assert list(copy.images()) == list(bank.images())


def test_a_copy_carries_places_and_no_regions(folder: Path, tmp_path: Path) -> None:
    """What goes to a loader process must not grow with the regions."""
    more = write_bank(tmp_path / "more", {number: 500 for number in COUNTS})
    assert abs(len(pickle.dumps(EmbeddingBank(more))) - len(pickle.dumps(EmbeddingBank(folder)))) < 100


def test_reading_an_image_takes_less_than_a_millisecond(tmp_path: Path) -> None:
    bank = EmbeddingBank(write_bank(tmp_path, {number: 300 for number in range(8)}))
    times = []
    for number in [*range(8)] * 5:
        start = time.perf_counter()
        bank[number]
        times.append(time.perf_counter() - start)
    assert sorted(times)[len(times) // 2] < 1e-3


# ---- what is refused ----


def test_where_no_bank_is_the_way_to_one_is_said(tmp_path: Path) -> None:
    for folder in (tmp_path / "nothing", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"{folder}.*Build it: tools/build_embedding_bank.py"):
            EmbeddingBank(folder)


def test_an_unfinished_bank_is_refused_with_how_to_go_on(tmp_path: Path) -> None:
    write_bank(tmp_path, COUNTS, finished=False)
    with pytest.raises(ValueError, match=f"{tmp_path} is unfinished: it has 3 shards.*Go on with the same"):
        EmbeddingBank(tmp_path)


def test_another_version_of_the_format_is_refused(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "version": 2}))
    with pytest.raises(ValueError, match=f"{folder} has the format .*, version 2; this code reads .*, version 1"):
        EmbeddingBank(folder)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "dk_detr embedding bank", "version": 1}'])
def test_a_manifest_that_is_not_whole_is_refused(folder: Path, content: str) -> None:
    (folder / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match="manifest.json is no (whole )?manifest"):
        read_manifest(folder)


def test_a_missing_shard_is_named(folder: Path) -> None:
    (folder / "shard-00001.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="lacks the shard shard-00001.safetensors.*makes only what is missing"):
        EmbeddingBank(folder)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_truncated_shard_is_named(folder: Path, share: float) -> None:
    path = folder / "shard-00001.safetensors"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match="shard-00001.safetensors is damaged: it has .* bytes, the manifest says"):
        EmbeddingBank(folder)


def test_a_shard_without_header_is_named(folder: Path) -> None:
    path = folder / "shard-00000.safetensors"
    path.write_bytes(b"\0" * path.stat().st_size)
    with pytest.raises(ValueError, match="shard-00000.safetensors is no whole shard"):
        EmbeddingBank(folder)


@pytest.mark.parametrize("place", [0.2, 0.6, -1])
def test_a_flipped_bit_is_found_wherever_it_is(folder: Path, place: float) -> None:
    """In the header it may be found when the bank is opened, else by the checksum."""
    path = folder / "shard-00002.safetensors"
    content = bytearray(path.read_bytes())
    content[int(place * len(content)) if place > 0 else -1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="shard-00002.safetensors"):
        EmbeddingBank(folder).verify()


def test_a_whole_bank_passes_the_checksums(folder: Path) -> None:
    EmbeddingBank(folder).verify(threads=2)


def test_a_shard_of_another_bank_is_named_with_what_differs(folder: Path) -> None:
    """Of the same size, so that only its header tells."""
    made_from = settings([image(number) for number in COUNTS], images_per_shard=3)
    path, size = folder / "shard-00001.safetensors", (folder / "shard-00001.safetensors").stat().st_size
    own = [image(900_000_000_000), image(4)]
    write_shard(path, made_from, 1, own, [regions(one.image_id, COUNTS[one.image_id]) for one in own])
    assert path.stat().st_size == size
    with pytest.raises(ValueError, match="shard-00001.* of another bank .*images_per_shard is 3 there, 2 here"):
        EmbeddingBank(folder)


def test_shards_that_changed_places_are_named(tmp_path: Path) -> None:
    folder = write_bank(tmp_path, {1: 2, 2: 2, 3: 2, 4: 2})
    first, second = folder / "shard-00000.safetensors", folder / "shard-00001.safetensors"
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    with pytest.raises(ValueError, match="shard-00000.* of another bank .*it is shard 1"):
        EmbeddingBank(folder)
