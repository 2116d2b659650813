"""What a teacher costs is measured on the config as it is."""

from pathlib import Path

import pytest

from dk_detr.benchmark import as_configured, distillation
from dk_detr.commands.gpu_check.shrunk import TWO_STEPS
from dk_detr.engine import setup_cfg
from tests.projects.detrdistill.config_fixtures import DEFORMABLE, teacher_of
from tests.run_fixtures import World


@pytest.mark.parametrize(("way", "extensions"), [(as_configured.PLAIN, []), (as_configured.TAUGHT, ["DETRDistill"])])
def test_a_step_with_the_teacher_and_one_without(
    way: str, extensions: list[str], tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = world.options(**{**TWO_STEPS, **teacher_of(DEFORMABLE, world, tmp_path / "teacher")})
    file = tmp_path / "student.yaml"
    file.write_text(setup_cfg(str(DEFORMABLE), options).dump())
    models = []
    monkeypatch.setattr(as_configured, "training_step", lambda model, loss: models.append(model) or loss)
    assert as_configured._training_step(way, str(file), "cpu", 2)().item() > 0
    assert list(models[0].extensions) == extensions
    assert as_configured.has_other_teachers(str(file))


def test_the_houses_own_teachers_have_ways_of_their_own() -> None:
    assert not as_configured.has_other_teachers("")
    assert not as_configured.has_other_teachers(str(distillation.CONFIGS["cpu"]))
