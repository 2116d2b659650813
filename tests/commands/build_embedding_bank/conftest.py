"""One world for the tests of the builder, and one bank that was built in it without an interruption."""

from pathlib import Path

import pytest

from tests.commands.build_embedding_bank.building import BankWorld, make_bank_world


@pytest.fixture(scope="session")
def bank_world(tmp_path_factory: pytest.TempPathFactory) -> BankWorld:
    """Where banks can be built."""
    return make_bank_world(tmp_path_factory.mktemp("bank_world"))


@pytest.fixture(scope="session")
def whole_bank(bank_world: BankWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished bank of the eight images."""
    return bank_world.build(tmp_path_factory.mktemp("whole_bank"))
