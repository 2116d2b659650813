"""DK-DETR as it was evaluated: from an image file, over a square that it is padded to, to detections in its pixels.

The steps are those of the release's test pipeline and head (opera, mmdet), written down from them.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from dk_detr.convert import convert
from dk_detr.engine import setup_cfg
from dk_detr.engine.predictor import Predictor
from dk_detr.language import save_vocabulary
from dk_detr.structures import Vocabulary
from tests.model_fixtures import random
from tests.parity.formulas import Detector, Weights, anchors
from tests.parity.opera import HEAD, WIDTH, released
from tests.parity.published import CHANNELS, DECODER_LAYERS, ENCODER_LAYERS
from tests.parity.test_opera_naming import NAMES, answer
from tests.run_fixtures import REPOSITORY

SQUARE, QUERIES, WORDS, KEPT = 128, 40, 12, 300
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
SIZES = [(48, 64), (64, 36)]  # (h, w) of files: they become twice as large, and are padded below, or on the right
TEXT = F.normalize(random(WORDS, WIDTH, seed=2), dim=1)


def state() -> dict[str, Tensor]:
    """The release at small sizes. Tokens that say nothing, of padding and the very edge, have the least objectness, as
    in a trained detector: the release could propose them, and ours never does."""
    state = dict(released())
    norm, ranking = f"{HEAD}enc_output_norm", f"bbox_head.cls_branches.{DECODER_LAYERS}.weight"
    nothing = F.layer_norm(
        state[f"{HEAD}enc_output.bias"], (CHANNELS,), state[f"{norm}.weight"], state[f"{norm}.bias"]
    )
    state[ranking] = state[ranking].clone()
    state[ranking][0] -= 5 * nothing / nothing.square().sum()
    return state


# ---- the release ----


def doubled(pixels: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 twice as wide and high, bilinear; the file is smaller than the square."""
    for axis in (1, 0):
        before, after = np.roll(pixels, 1, axis).astype(float), np.roll(pixels, -1, axis).astype(float)
        first, last = [(slice(None),) * axis + (end,) for end in (0, -1)]
        before[first], after[last] = pixels[first], pixels[last]
        both = np.stack([0.75 * pixels + 0.25 * before, 0.75 * pixels + 0.25 * after], axis + 1)
        shape = list(pixels.shape)
        shape[axis] *= 2
        pixels = np.floor(both.reshape(shape) + 0.5).astype(np.uint8)
    return pixels


def pipeline(path: Path) -> tuple[Tensor, tuple[int, int]]:
    """Resize to fit the square, normalise, pad: (3, SQUARE, SQUARE) and the (h, w) that the image has in it."""
    pixels = doubled(np.asarray(Image.open(path)))
    h, w, _ = pixels.shape
    assert max(h, w) == SQUARE
    canvas = torch.zeros(3, SQUARE, SQUARE)
    canvas[:, :h, :w] = ((torch.tensor(pixels).float() - torch.tensor(MEAN)) / torch.tensor(STD)).permute(2, 0, 1)
    return canvas, (h, w)


def detections(logits: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """(KEPT, 6) class, score and box xyxy in pixels of the file, of (Q, K) and (Q, 4)."""
    scores, index = logits.sigmoid().flatten().topk(KEPT)
    x, y, w, h = boxes[index // WORDS].unbind(1)
    height, width = size
    left, right = ((x + side * w / 2) * width for side in (-1, 1))
    top, bottom = ((y + side * h / 2) * height for side in (-1, 1))
    across, down = [each.clamp(0, width) / 2 for each in (left, right)], [y.clamp(0, height) / 2 for y in (top, bottom)]
    return torch.stack([(index % WORDS).float(), scores, across[0], down[0], across[1], down[1]], dim=1)


@torch.no_grad()
def as_released(path: Path) -> Tensor:
    canvas, size = pipeline(path)
    logits, boxes = answer(Weights(state()), canvas, TEXT, size, QUERIES)
    return detections(logits[-1], boxes[-1], size)


# ---- ours ----


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights, words and pictures."""
    folder = tmp_path_factory.mktemp("release")
    conversion = convert("opera-dk-detr", state(), {"MODEL.DETR.NUM_QUERIES": QUERIES})
    torch.save({"model": conversion.state}, folder / "model.pth")
    names = tuple(f"word {number}" for number in range(WORDS))
    save_vocabulary(Vocabulary(names, TEXT, torch.zeros(WORDS, dtype=torch.bool)), str(folder / "words.npz"))
    for h, w in SIZES:
        coarse = np.random.default_rng(h).integers(0, 256, (h // 4, w // 4, 3), np.uint8)
        Image.fromarray(coarse).resize((w, h), Image.Resampling.BICUBIC).save(folder / f"{h}x{w}.png")
    return folder


def predictor(folder: Path, padded: int) -> Predictor:
    """The config of the method, with the settings that the conversion finds."""
    conversion = convert("opera-dk-detr", state(), {"MODEL.DETR.NUM_QUERIES": QUERIES})
    settings = {
        **conversion.settings,
        "MODEL.DEVICE": "cpu", "MODEL.WEIGHTS": folder / "model.pth", "MODEL.VOCABULARY.TEST": folder / "words.npz",
        "INPUT.MIN_SIZE_TEST": SQUARE, "INPUT.MAX_SIZE_TEST": SQUARE, "INPUT.JITTER_SIZE": SQUARE,
        "MODEL.DETR.PADDED_SIZE": padded,
    }  # fmt: skip
    words = [str(word) for pair in settings.items() for word in pair]
    return Predictor(setup_cfg(str(REPOSITORY / conversion.config), words))


def found_by(predictor: Predictor, path: Path) -> Tensor:
    """(n, 6), as `detections`."""
    found = predictor(path)
    return torch.cat([found.pred_classes[:, None].float(), found.scores[:, None], found.pred_boxes.tensor], dim=1)


def share_found_again(theirs: Tensor, ours: Tensor) -> float:
    """Of their detections, with the same class, the score to 1e-4 and the box to a hundredth of a pixel."""
    near = (theirs[:, None] - ours[None]).abs() < torch.tensor([0.5, 1e-4, 0.01, 0.01, 0.01, 0.01])
    return near.all(-1).any(1).float().mean().item()


@pytest.mark.parametrize("size", SIZES, ids=["padded below", "padded on the right"])
def test_an_image_file_gives_the_detections_of_the_release(folder: Path, size: tuple[int, int]) -> None:
    path = folder / f"{size[0]}x{size[1]}.png"
    theirs, ours = as_released(path), found_by(predictor(folder, SQUARE), path)
    assert len(theirs) == len(ours) == KEPT
    torch.testing.assert_close(ours[:, 1], theirs[:, 1], atol=1e-4, rtol=0)
    assert share_found_again(theirs, ours) == share_found_again(ours, theirs) == 1


@pytest.mark.parametrize("size", SIZES)
def test_without_padding_they_are_others(folder: Path, size: tuple[int, int]) -> None:
    path = folder / f"{size[0]}x{size[1]}.png"
    assert share_found_again(as_released(path), found_by(predictor(folder, 0), path)) < 0.1


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_nothing_is_proposed_that_ours_would_leave_out(folder: Path, size: tuple[int, int]) -> None:
    """So that the formulas, which leave out padding and edge too, are the release's."""
    canvas, shown = pipeline(folder / f"{size[0]}x{size[1]}.png")
    detector = Detector(Weights(state()), NAMES, CHANNELS, ENCODER_LAYERS, DECODER_LAYERS)
    tokens = detector.encode(canvas, shown)
    _, inside = anchors(detector.sizes, detector.shown)
    _, scores = detector.ranked(tokens, inside)
    assert scores[inside].topk(QUERIES).values.min() > scores[~inside].max()
