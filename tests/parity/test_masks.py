"""The masks of the released DK-DETR and SOIT, converted: those of their formulas, from the map to the pixels."""

from pathlib import Path

import pytest
import torch
from detectron2.structures import ImageList
from torch import Tensor
from torch.nn import functional as F

from dk_detr.convert import convert, likely_source
from dk_detr.language import save_vocabulary
from dk_detr.meta_arch import DETR
from dk_detr.structures import DETECTION, QuerySet, Vocabulary
from tests.model_fixtures import random
from tests.parity import mask_formulas
from tests.parity.detector import detector_of
from tests.parity.formulas import Detector, Weights
from tests.parity.opera import CLASSES, WIDTH, released, soit
from tests.parity.published import CHANNELS, DECODER_LAYERS, ENCODER_LAYERS
from tests.parity.test_opera_naming import NAMES

QUERIES = 6
SIDE, SIZE = 96, (72, 96)  # of the square, and of the image in it: the last row of cells is padding
OUTPUT = (50, 70)  # what a user asks for
STATES = {"opera-dk-detr": released, "opera-soit": soit}
TEXT = F.normalize(random(CLASSES, WIDTH, seed=2), dim=1)


def stirred(source: str) -> dict[str, Tensor]:
    """Masks of random weights are nearly flat: stronger ones, with some of both signs."""
    state = dict(STATES[source]())
    weight, bias = (state[f"bbox_head.seg_branches.0.4.{part}"] for part in ("weight", "bias"))
    changed = {"weight": 3 * weight, "bias": bias - 2.0 * (torch.arange(441) == 440)}
    branches = range(DECODER_LAYERS)
    return {**state, **{f"bbox_head.seg_branches.{n}.4.{part}": t for n in branches for part, t in changed.items()}}


def converted(source: str, folder: Path, padded: int) -> DETR:
    words = folder / "words.npz"
    names = tuple(f"word {number}" for number in range(CLASSES))
    save_vocabulary(Vocabulary(names, TEXT, torch.zeros(CLASSES, dtype=torch.bool)), str(words))
    conversion = convert(source, stirred(source), {"MODEL.DETR.NUM_QUERIES": QUERIES})
    sizes = {"INPUT__JITTER_SIZE": SIDE, "INPUT__MIN_SIZE_TEST": SIDE, "INPUT__MAX_SIZE_TEST": SIDE}
    options = {"MODEL__VOCABULARY__TEST": words, "MODEL__DETR__PADDED_SIZE": padded, **(sizes if padded else {})}
    return detector_of(conversion, **options)


def formulas(weights: Weights, canvas: Tensor, size: tuple[int, int]) -> Tensor:
    """(Q, h, w) logits of the last layer's queries."""
    detector = Detector(weights, NAMES, CHANNELS, ENCODER_LAYERS, DECODER_LAYERS)
    content, position, reference = detector.propose(tokens := detector.encode(canvas, size), QUERIES)
    for number in range(DECODER_LAYERS):
        content = detector.decode(number, content, position, reference, tokens)
        reference = detector.boxes(number, content, reference)
    return mask_formulas.of_queries(detector, tokens, content, reference)


def canvas_of(size: tuple[int, int], padded: int) -> Tensor:
    """A normalised image (3, h, w), top left of its square."""
    image = random(3, *size, seed=3)
    return F.pad(image, (0, padded - size[1], 0, padded - size[0])) if padded else image


@torch.no_grad()
def ours(detector: DETR, canvas: Tensor, size: tuple[int, int]) -> Tensor:
    """The same by the detector."""
    images = ImageList(canvas[None], [size])
    initial = detector.queries(memory := detector.encoder(detector.extract_features(images)))
    hidden_states, boxes = detector.decoder(QuerySet((initial.group,)), memory).of(DETECTION)
    head = detector.mask_head
    assert head is not None
    return head(hidden_states[-1, 0], boxes[-1, 0], torch.zeros(QUERIES, dtype=torch.long), head.read(memory))


@pytest.fixture(scope="module", params=[("opera-dk-detr", SIDE), ("opera-soit", 0)], ids=["DK-DETR", "SOIT"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[DETR, int, Tensor]:
    """The detector, the side of its square, and what the formulas say of the image."""
    source, padded = request.param
    weights = Weights(stirred(source))
    with torch.no_grad():
        said = formulas(weights, canvas_of(SIZE, padded), SIZE)
    used = {name for name in convert(source, weights.state).used if "cls_branches" not in name}
    assert used == {name for name in weights.asked if "cls_branches" not in name}  # all but classes is in the formulas
    return converted(source, tmp_path_factory.mktemp("words"), padded), padded, said


def test_logits_are_those_of_the_formulas(case: tuple[DETR, int, Tensor]) -> None:
    detector, padded, said = case
    assert said.std() > 0.3 and 0.02 < (said > 0).float().mean() < 0.98
    torch.testing.assert_close(ours(detector, canvas_of(SIZE, padded), SIZE), said, atol=1e-4, rtol=0)


def test_pixels_are_those_of_the_release(case: tuple[DETR, int, Tensor]) -> None:
    detector, padded, said = case
    image = canvas_of(SIZE, 0) * detector.pixel_std + detector.pixel_mean
    with torch.no_grad():
        (output,) = detector([{"image": image, "height": OUTPUT[0], "width": OUTPUT[1]}])
    found = output["instances"]
    assert found.pred_masks.shape == (len(found), *OUTPUT) and len(found) >= QUERIES
    wanted = torch.stack([in_pixels(said[query], padded) for query in found.query])
    assert 0.02 < (wanted > 0.5).float().mean() < 0.98
    clear = (wanted - 0.5).abs() > 1e-4
    assert torch.equal(found.pred_masks[clear], (wanted > 0.5)[clear]) and clear.float().mean() > 0.99


def in_pixels(logits: Tensor, padded: int) -> Tensor:
    """From the map of all cells to what is asked for, in probabilities."""
    fine = mask_formulas.four_times(logits).sigmoid()
    canvas = mask_formulas.stretched(fine, (padded, padded) if padded else SIZE)
    return mask_formulas.stretched(canvas[: SIZE[0], : SIZE[1]], OUTPUT)


@pytest.mark.parametrize("source", STATES)
def test_each_release_is_told_by_its_heads(source: str) -> None:
    assert likely_source(STATES[source]()) == source


def test_branches_that_differ_are_refused() -> None:
    state = {**released(), "bbox_head.seg_branches.1.4.bias": torch.zeros(441)}
    with pytest.raises(ValueError, match="seg_branches.1.4.bias should be the same tensor"):
        convert("opera-dk-detr", state)


def test_a_release_without_masks_finds_boxes() -> None:
    state = {name: t for name, t in released().items() if "seg_" not in name and "mask_trans" not in name}
    conversion = convert("opera-dk-detr", state)
    assert conversion.config == "configs/dk_detr_R50.yaml" and "MODEL.DETR.MASKS" not in conversion.settings
