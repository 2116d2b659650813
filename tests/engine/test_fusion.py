"""CLIP has a say at test: scores by hand, order, and what asks for it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch import nn
from torch.nn import functional as F

from dk_detr.engine import setup_cfg
from dk_detr.engine.fusion import WithClip, with_clip
from dk_detr.engine.predictor import Predictor
from dk_detr.engine.run_folder import read_results
from dk_detr.structures import Regions
from tests.model_fixtures import MEAN, STD, tiny_detector, tiny_input, tiny_teacher, tiny_vocabulary
from tests.run_fixtures import MINI, REPOSITORY, World

INPUT = tiny_input((40, 48), seed=3)
FUSED = {"MODEL__TEST_FUSION__BASE": 0.35, "MODEL__TEST_FUSION__NOVEL": 0.65}


class Found(nn.Module):
    """Finds two boxes, one of them as two words."""

    def __init__(self) -> None:
        super().__init__()
        words = tiny_vocabulary()
        self.novel, self.text = words.novel, words.embeddings

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        found = Instances((80, 96))
        found.pred_boxes = Boxes(
            torch.tensor([[8.0, 8.0, 40.0, 60.0], [8.0, 8.0, 40.0, 60.0], [0.0, 20.0, 90.0, 80.0]])
        )
        found.scores, found.pred_classes = torch.tensor([0.9, 0.5, 0.4]), torch.tensor([0, 1, 2])
        return [{"instances": found, "more": 1} for _ in batched_inputs]


def fused(base: float, novel: float) -> tuple[Instances, Found, Any]:
    found, clip = Found(), tiny_teacher()
    (output,) = WithClip(found, found, clip, base, novel, 0.1, MEAN, STD)([INPUT])
    assert output["more"] == 1
    return output["instances"], found, clip


def test_scores_are_the_geometric_mean_by_the_weight_of_the_word() -> None:
    result, found, clip = fused(0.25, 0.75)
    image = INPUT["image"]
    pixels = (image - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    wanted = {}
    for score, word, box in ((0.9, 0, (8, 8, 40, 60)), (0.5, 1, (8, 8, 40, 60)), (0.4, 2, (0, 20, 90, 80))):
        x0, y0, x1, y1 = (side / size for side, size in zip(box, (96, 80, 96, 80)))
        where = torch.tensor([[(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0]])
        row = clip(pixels[None], [(40, 48)], Regions(torch.tensor([0]), torch.tensor([0]), where))
        share = (F.normalize(row, dim=-1) @ found.text.T / 0.1).softmax(-1)[0, word].item()
        weight = 0.75 if found.novel[word] else 0.25
        wanted[word] = score ** (1 - weight) * share**weight
    seen = dict(zip(result.pred_classes.tolist(), result.scores.tolist()))
    assert seen == pytest.approx(wanted, rel=1e-4)
    assert result.scores.tolist() == sorted(seen.values(), reverse=True)


def test_a_weight_of_one_is_clip_alone_and_of_zero_the_detector() -> None:
    assert fused(0.0, 0.0)[0].scores.tolist() == pytest.approx([0.9, 0.5, 0.4])
    (alone, _, _), (other, _, _) = fused(1.0, 1.0), fused(1.0, 0.0)
    assert other.scores[other.pred_classes == 1].item() == pytest.approx(0.5)
    assert alone.scores.sum() < 3


def test_a_box_of_several_words_is_seen_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clip, seen = tiny_teacher(), []
    crop = clip.crop
    monkeypatch.setattr(clip, "crop", lambda *args: seen.append(len(args[2])) or crop(*args))
    found = Found()
    WithClip(found, found, clip, 0.5, 0.5, 0.1, MEAN, STD)([INPUT])
    assert seen == [2]


def test_nothing_found_is_nothing_asked() -> None:
    detector = tiny_detector()
    empty = Instances((8, 8), pred_boxes=Boxes(torch.zeros(0, 4)), scores=torch.zeros(0))
    assert len(WithClip(detector, detector, tiny_teacher(), 0.5, 0.5, 0.1, MEAN, STD)._fused(INPUT, empty)) == 0


def test_it_is_off_by_default(world: World) -> None:
    cfg, detector = setup_cfg(MINI, world.options()), tiny_detector()
    assert with_clip(cfg, detector, detector) is detector


def test_evaluation_and_pictures_are_fused(world: World, tmp_path: Path) -> None:
    run = world.train(tmp_path / "run", config=MINI, SOLVER__MAX_ITER=1, DATASETS__TEST=())
    weights = {"MODEL__WEIGHTS": run / "model_final.pth"}
    plain = world.train(tmp_path / "plain", config=MINI, eval_only=True, **weights)
    more = world.train(tmp_path / "fused", config=MINI, eval_only=True, **weights, **FUSED)
    first, second = (read_results(str(folder)) for folder in (plain, more))
    assert first is not None and second is not None and str(first["results"]) != str(second["results"])
    assert "CLIP (MODEL.TEST_FUSION) took" in (more / "log.txt").read_text()
    image = str(world.root / "mini_lvis" / "train" / "000001.png")
    scores = [Predictor(setup_cfg(MINI, world.options(**weights, **changed)))(image).scores for changed in ({}, FUSED)]
    assert not torch.equal(*scores)


CLOSED = str(REPOSITORY / "configs/mini/detr.yaml")


@pytest.mark.parametrize(
    ("config", "changed", "message"),
    [
        (MINI, {"MODEL__TEST_FUSION__NOVEL": 1.5}, "MODEL.TEST_FUSION.NOVEL is a weight in"),
        (
            MINI,
            {"MODEL__TEST_FUSION__NOVEL": 0.5, "MODEL__TEST_FUSION__TEMPERATURE": 0.0},
            "TEMPERATURE must be above 0",
        ),
        (
            str(REPOSITORY / "configs/mini/detr.yaml"),
            FUSED,
            'asks CLIP for words, and .* "LinearBackground" knows no text',
        ),
    ],
)
def test_what_cannot_be_fused_is_refused(config: str, changed: dict[str, Any], message: str, world: World) -> None:
    detector = tiny_detector()
    with pytest.raises(ValueError, match=message):
        with_clip(setup_cfg(config, world.options(**changed)), detector, detector)
