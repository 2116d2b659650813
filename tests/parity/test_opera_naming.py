"""The published DK-DETR, by the names of opera and mmdet, converted: the same boxes and logits as its formulas give.

The names and their roles are those of opera's DKDETRHead and SOITTransformer and of mmcv's layers.
"""

from functools import cache

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dk_detr.convert import Conversion, convert
from dk_detr.engine import setup_cfg
from dk_detr.language import save_vocabulary
from dk_detr.structures import Vocabulary
from tests.model_fixtures import random
from tests.parity.detector import answer_of, detector_of
from tests.parity.formulas import Detector, Layer, Names, Weights
from tests.parity.opera import HEAD, WIDTH, masks, released
from tests.parity.published import CHANNELS, DECODER_LAYERS, ENCODER_LAYERS, LEVELS, accounted
from tests.run_fixtures import REPOSITORY

QUERIES = 12
IMAGE = random(3, 64, 96, seed=1)
TEXT = F.normalize(random(5, WIDTH, seed=2), dim=1)


@cache
def conversion() -> Conversion:
    return convert("opera-dk-detr", released(), {"MODEL.DETR.NUM_QUERIES": QUERIES})


ENCODER, DECODER = f"{HEAD}encoder.layers.{{}}.", f"{HEAD}decoder.layers.{{}}."
NAMES = Names(
    backbone="backbone.",
    neck=[
        *((f"neck.convs.{level}.conv", f"neck.convs.{level}.gn") for level in range(3)),
        ("neck.extra_convs.0.conv", "neck.extra_convs.0.gn"),
    ],
    level_embedding=f"{HEAD}level_embeds",
    encoder=Layer(
        deformable_attention=f"{ENCODER}attentions.0",
        after_deformable=f"{ENCODER}norms.0",
        feed_forward=(f"{ENCODER}ffns.0.layers.0.0", f"{ENCODER}ffns.0.layers.1"),
        after_feed_forward=f"{ENCODER}norms.1",
    ),
    decoder=Layer(
        dense_attention=f"{DECODER}attentions.0.attn",
        after_dense=f"{DECODER}norms.0",
        deformable_attention=f"{DECODER}attentions.1",
        after_deformable=f"{DECODER}norms.1",
        feed_forward=(f"{DECODER}ffns.0.layers.0.0", f"{DECODER}ffns.0.layers.1"),
        after_feed_forward=f"{DECODER}norms.2",
    ),
    box_head=("bbox_head.reg_branches.{}.0", "bbox_head.reg_branches.{}.2", "bbox_head.reg_branches.{}.4"),
    token=(f"{HEAD}enc_output", f"{HEAD}enc_output_norm"),
    ranking=f"bbox_head.cls_branches.{DECODER_LAYERS}",
    query=(f"{HEAD}pos_trans", f"{HEAD}pos_trans_norm"),
)


def answer(
    weights: Weights, canvas: Tensor, text: Tensor, size: tuple[int, int] | None = None, queries: int = QUERIES
) -> tuple[Tensor, Tensor]:
    """DK-DETR at test time: (D, Q, K) logits and (D, Q, 4) boxes; the image is (h, w) of the canvas, or all of it."""
    detector = Detector(weights, NAMES, CHANNELS, ENCODER_LAYERS, DECODER_LAYERS)
    content, position, reference = detector.propose(tokens := detector.encode(canvas, size), queries)
    logits, boxes = [], []
    for number in range(DECODER_LAYERS):
        content = detector.decode(number, content, position, reference, tokens)
        boxes.append(detector.boxes(number, content, reference))
        projected = weights.linear(f"bbox_head.cls_branches.{number}", content)
        logits.append(F.cosine_similarity(projected[:, None], text[None], dim=-1) / 0.05)
        reference = boxes[-1]
    return torch.stack(logits), torch.stack(boxes)


@pytest.fixture(scope="module")
def weights() -> Weights:
    return Weights(released())


@pytest.fixture(scope="module")
def formulas(weights: Weights) -> tuple[Tensor, Tensor]:
    """What the formulas say."""
    with torch.no_grad():
        return answer(weights, IMAGE, TEXT)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tensor, Tensor]:
    """What the converted detector says."""
    words = tmp_path_factory.mktemp("words") / "words.npz"
    save_vocabulary(Vocabulary(tuple("abcde"), TEXT, torch.zeros(5, dtype=torch.bool)), str(words))
    return answer_of(detector_of(conversion(), MODEL__VOCABULARY__TEST=words), IMAGE)


def test_boxes_and_logits_of_all_layers_are_those_of_the_formulas(
    formulas: tuple[Tensor, Tensor], ours: tuple[Tensor, Tensor]
) -> None:
    for mine, theirs, shape in zip(ours, formulas, [(DECODER_LAYERS, QUERIES, 5), (DECODER_LAYERS, QUERIES, 4)]):
        assert mine.shape == shape
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=0)


def test_what_the_formulas_ask_for_is_what_is_used(weights: Weights, formulas: tuple[Tensor, Tensor]) -> None:
    """Masks have formulas of their own, in test_masks.py."""
    assert set(conversion().used) - set(masks()) == weights.asked


def test_every_tensor_of_the_release_is_used_or_listed() -> None:
    assert accounted(conversion().used, conversion().listed) == set(released())


def test_copies_of_the_mask_branch_and_the_words_are_listed_with_the_reason() -> None:
    listed = conversion().by_reason()
    copies = listed["the same mask branch again: one serves all layers"]
    assert set(copies) == {name for name in masks() if "seg_branches" in name and "seg_branches.0" not in name}
    (words,) = [names for reason, names in listed.items() if "a vocabulary" in reason]
    assert words == ["text_encoder.text_feat"]


def test_only_the_output_that_ranks_is_taken_of_the_encoders_class_head() -> None:
    head = released()[f"bbox_head.cls_branches.{DECODER_LAYERS}.weight"]
    assert torch.equal(conversion().state["queries.objectness.weight"], head[:1])
    assert f"bbox_head.cls_branches.{DECODER_LAYERS}.weight[1:]" in conversion().listed


def test_a_convolution_without_bias_has_none() -> None:
    biases = [tensor for name, tensor in conversion().state.items() if name.startswith("neck.") and ".0.bias" in name]
    assert len(biases) == LEVELS and not any(bias.any() for bias in biases)


def test_the_published_config_fits() -> None:
    assert conversion().config == "configs/dk_detr_mask_R50.yaml"
    cfg = setup_cfg(str(REPOSITORY / conversion().config))
    (figures,) = [note for note in conversion().notes if "33.5" in note and "22.4" in note]
    for key, value in (("MODEL.DETR.PADDED_SIZE", cfg.MODEL.DETR.PADDED_SIZE), ("INPUT.MAX_SIZE_TEST", 1024)):
        assert key in figures and value == 1024
    assert f"{cfg.TEST.DETECTIONS_PER_IMAGE} detections" in figures
    assert any("SyncBN" in note for note in conversion().notes)
