"""Nothing mixes devices: detectors run on a GPU that is pretended, whose tensors refuse to meet those of the CPU."""

from typing import Any

import pytest
import torch
from detectron2.utils.events import EventStorage

from dk_detr.commands.gpu_check.shrunk import FOLDER, options_of, two_steps
from dk_detr.engine import Trainer, setup_cfg
from tests.pretend_gpu import CUDA, MixedDevices, OnGpu, moved, pretend_gpu
from tests.run_fixtures import SIDE, World, world_with_masks

CONFIGS = [
    "dk_detr_plus_R50.yaml", "mini/dk_detr_mask.yaml", "mini/dino_open.yaml", "mini/dk_adamixer.yaml",
    "mini/vild_ensemble.yaml", "mini/dn_detr.yaml",
]  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return world_with_masks(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize("name", CONFIGS)
def test_training_and_detecting_mix_no_devices(name: str, world: World) -> None:
    path = FOLDER / name
    cfg = setup_cfg(str(path), world.options(**{**two_steps(path), **options_of(path, world)}))
    with world.in_use():
        model: Any = Trainer.build_model(cfg).train()
        batch = next(iter(Trainer.build_train_stream(cfg, model, seed=0)))
    with EventStorage(0), pretend_gpu() as gpu:
        losses = moved(model)(batch)
        sum(losses.values()).backward()
        (answer, *_) = model.eval()([{"image": sample["image"], "height": SIDE, "width": SIDE} for sample in batch])
        assert {loss.device for loss in losses.values()} == {answer["instances"].scores.device} == {CUDA}
    assert gpu.waits, "matching waits for the device: nothing was counted"


def test_the_host_does_not_wait_for_labels(world: World) -> None:
    """They are checked before they are moved: else a step would begin only when the one before has ended."""
    path = FOLDER / "mini" / "deformable_detr.yaml"
    cfg = setup_cfg(str(path), world.options(**two_steps(path)))
    with world.in_use():
        model: Any = Trainer.build_model(cfg).train()
        batch = next(iter(Trainer.build_train_stream(cfg, model, seed=0)))
    with pretend_gpu() as gpu:
        moved(model).targets(batch)
    assert not gpu.waits


# ---- it refuses what a GPU refuses ----


def test_tensors_of_both_devices_are_refused_and_numbers_are_not() -> None:
    with pretend_gpu():
        there = torch.ones(3, device="cuda")
        assert there.is_cuda and isinstance(there + 1, OnGpu) and isinstance(there * torch.tensor(2.0), OnGpu)
        for mixed in (lambda: there + torch.ones(3), lambda: torch.cat([there, torch.ones(1)])):
            with pytest.raises(MixedDevices, match="both devices"):
                mixed()
        assert (there + torch.ones(3).to(there)).tolist() == [2, 2, 2]
        assert not (there.cpu() + torch.ones(3)).is_cuda


def test_an_index_may_be_on_the_cpu_but_not_the_other_way_round() -> None:
    with pretend_gpu():
        there, index = torch.arange(4, device="cuda"), torch.tensor([1, 2])
        assert there[index].tolist() == [1, 2]
        with pytest.raises(MixedDevices, match="index"):
            torch.arange(4)[index.to("cuda")]


def test_what_only_the_cpu_has_is_refused() -> None:
    with pretend_gpu():
        with pytest.raises(MixedDevices, match="numpy"):
            torch.ones(2, device="cuda").numpy()
        with pytest.raises(MixedDevices, match="generator"):
            torch.rand(2, device="cuda", generator=torch.Generator())


def test_waits_are_counted() -> None:
    with pretend_gpu() as gpu:
        there = torch.ones(2, device="cuda")
        there.sum().item()
        there[there > 0]
        there.cpu()
    assert sum(gpu.waits.values()) == 3
