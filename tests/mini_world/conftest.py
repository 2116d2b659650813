"""A mini world on disk for the tests of a file."""

from pathlib import Path

import pytest

from dk_detr.mini_world import make_mini_world


@pytest.fixture(scope="module")
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the file's WORLD."""
    folder = tmp_path_factory.mktemp("world") / "mini_lvis"
    make_mini_world(folder, request.module.WORLD)
    return folder
