"""Every config computes what it has always computed, as near as machines agree."""

import json

import pytest

from tests.golden.values import ALL, FILE, config_of, train
from tests.run_fixtures import World, world_with_masks

BEFORE = json.loads(FILE.read_text())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return world_with_masks(tmp_path_factory.mktemp("world"))


def test_every_config_has_its_values() -> None:
    assert BEFORE.keys() == ALL.keys()


@pytest.mark.parametrize("name", ALL)
def test_a_config_starts_with_the_losses_that_it_always_had(name: str, world: World) -> None:
    with world.in_use():
        _, (first,) = train(config_of(name, world), steps=1)
    assert first == pytest.approx(BEFORE[name]["losses"][0], rel=1e-3, abs=1e-4)
