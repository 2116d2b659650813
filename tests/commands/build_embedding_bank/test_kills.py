"""The builder, killed: the same command goes on to the same bytes, and nothing is done twice."""

import multiprocessing
import os
import random
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from dk_detr.commands.build_embedding_bank import builder
from dk_detr.commands.build_embedding_bank.builder import Builder
from dk_detr.data.bank import EmbeddingBank, shard
from tests.commands.build_embedding_bank.building import BankWorld, contents
from tests.run_fixtures import NUM_IMAGES


def _die(*args: Any, **kwargs: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def _within_an_image() -> None:
    """The second shard has its first image."""
    _die_at_image(4)


def _within_a_write() -> None:
    """Of the second shard one half is on disk."""

    def save_half(tensors: Any, path: Path, metadata: Any) -> None:
        save(tensors, path, metadata)
        if "00001" in path.name:
            os.truncate(path, os.path.getsize(path) // 2)
            _die()

    save = shard.save_file
    shard.save_file = save_half


def _before_the_manifest() -> None:
    """All shards are there."""
    builder.write_manifest = _die  # type: ignore[assignment]


def _at_any_image() -> None:
    """Wherever."""
    _die_at_image(random.randrange(NUM_IMAGES))


def _die_at_image(number: int) -> None:
    def look(self: Builder, sample: Any) -> Any:
        return regions_of(self, sample) if next(looked_at) < number else _die()

    looked_at, regions_of = iter(range(NUM_IMAGES)), Builder.regions_of
    Builder.regions_of = look  # type: ignore[method-assign]


MOMENTS = (_within_an_image, _within_a_write, _before_the_manifest)


def _build_and_die(bank_world: BankWorld, output: Path, moment: Callable[[], None]) -> None:
    moment()
    torch.set_num_threads(1)
    bank_world.build(output)


def exit_code_of_a_build(bank_world: BankWorld, output: Path, moment: Callable[[], None]) -> int | None:
    """Done in the nursery."""
    child = multiprocessing.get_context("fork").Process(target=_build_and_die, args=(bank_world, output, moment))
    child.start()
    child.join(60)
    return child.exitcode


@pytest.fixture(scope="module")
def nursery() -> Iterator[ProcessPoolExecutor]:
    """A process that has imported everything and forks each build that is to die."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _import_all) as pool:
        yield pool


def _import_all() -> None:
    import open_clip  # noqa: F401


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_build_goes_on_to_the_same_bytes(
    moment: Callable[[], None], bank_world: BankWorld, whole_bank: Path, nursery: ProcessPoolExecutor, tmp_path: Path
) -> None:
    assert nursery.submit(exit_code_of_a_build, bank_world, tmp_path, moment).result() == -signal.SIGKILL
    with pytest.raises(ValueError, match="is unfinished"):
        EmbeddingBank(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")}
    bank_world.build(tmp_path)
    assert contents(tmp_path) == contents(whole_bank)
    assert before and all(path.stat().st_mtime_ns == time for path, time in before.items())  # nothing done twice


def test_a_build_that_was_killed_three_times_anywhere_ends_in_the_same_bytes(
    bank_world: BankWorld, whole_bank: Path, nursery: ProcessPoolExecutor, tmp_path: Path
) -> None:
    for _ in range(3):
        code = nursery.submit(exit_code_of_a_build, bank_world, tmp_path, _at_any_image).result()
        assert code in (-signal.SIGKILL, 0)  # 0 where too little was left to do
    bank_world.build(tmp_path)
    assert contents(tmp_path) == contents(whole_bank)
