"""Parity: a Deformable DETR of Hugging Face, converted, says the same here in every decoder layer.

Its weights are random and nothing is zero that starts at zero, so that every part has a say; nothing is downloaded.
D layers, B images, S tokens, Q queries.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import ImageList
from torch import Tensor, nn

from dk_detr.convert import convert
from dk_detr.convert.hf_deformable_detr import known_settings
from dk_detr.engine import setup_cfg
from dk_detr.meta_arch import DETR
from dk_detr.structures import DETECTION, QuerySet
from tests.model_fixtures import fixed_seed, random, stir
from tests.run_fixtures import REPOSITORY

transformers = pytest.importorskip("transformers", reason="parity is with Hugging Face's transformers")

QUERIES, TOLERANCE = 10, 1e-4
VARIANTS = {"one_stage": (False, False), "refined": (True, False), "two_stage": (True, True)}
MAPS = {1: ["stage4"], 2: ["stage4"], 3: ["stage2", "stage3", "stage4"], 4: ["stage2", "stage3", "stage4"]}
SMALL = {
    "d_model": 64, "encoder_layers": 2, "decoder_layers": 3, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_n_points": 2, "decoder_n_points": 2,
    "num_queries": QUERIES, "two_stage_num_proposals": QUERIES, "num_labels": 80,
}  # fmt: skip
ONE = [(96, 128)]
PADDED = [(128, 96), (75, 120), (128, 128)]
each_variant = pytest.mark.parametrize("variant", VARIANTS)


@cache
def hugging_face(variant: str, levels: int) -> Any:
    """Their detector: a thin R50, and one level more than its maps, except where all levels are maps."""
    refined, two_stage = VARIANTS[variant]
    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[16, 32, 64, 128], depths=[3, 4, 6, 3], out_features=MAPS[levels]
    )
    config = transformers.DeformableDetrConfig(
        backbone_config=backbone, num_feature_levels=levels, with_box_refine=refined, two_stage=two_stage, **SMALL
    )
    with fixed_seed():
        model = transformers.DeformableDetrForObjectDetection(config).eval()
    if refined:  # of the class heads they make one where there should be many; what they load may differ by layer
        model.class_embed = nn.ModuleList(copy.deepcopy(head) for head in model.class_embed)
    if two_stage:
        model.model.decoder.class_embed = model.class_embed
    return stirred(model)


def stirred(model: nn.Module) -> nn.Module:
    """Noise on all weights and on the statistics of the frozen norms."""
    stir(model)
    for number, (name, statistic) in enumerate(model.named_buffers()):
        noise = 0.1 * random(*statistic.shape, seed=number)
        statistic.copy_((statistic + noise).abs() if name.endswith("running_var") else statistic + noise)
    if hasattr(model.model, "enc_output"):
        rank_padding(model, -2.0)
    return model


def rank_padding(model: Any, logit: float) -> None:
    """Let tokens without an image, all of them the same, have this objectness."""
    token, head = model.model.enc_output_norm(model.model.enc_output.bias), model.class_embed[-1]
    with torch.no_grad():
        head.weight[0] += (logit - head.bias[0] - head.weight[0] @ token) / token.square().sum() * token


@cache
def ours(variant: str, levels: int) -> DETR:
    """Our detector, from the config that the conversion names, with the settings that it finds."""
    return converted(hugging_face(variant, levels))


def converted(theirs: Any) -> DETR:
    conversion = convert("hf-deformable-detr", theirs.state_dict(), known_settings(theirs.config.to_dict()))
    settings = {**conversion.settings, "MODEL.DEVICE": "cpu"}
    words = [str(word) for pair in settings.items() for word in pair]
    detector = build_model(setup_cfg(str(REPOSITORY / conversion.config), words)).eval()
    detector.load_state_dict(conversion.state)
    return detector


@dataclass
class Answer:
    """What a detector says on its way: (D, B, Q, K) logits, (D, B, Q, 4) boxes, (B, Q, 2 or 4) references; and of two
    stages (B, S) objectness and (B, S, 4) boxes of all tokens, (B, S) True where a token may be proposed."""

    logits: Tensor
    boxes: Tensor
    references: Tensor
    objectness: Tensor | None = None
    proposals: Tensor | None = None
    valid: Tensor | None = None


def images_of(sizes: Sequence[tuple[int, int]], seed: int = 0) -> ImageList:
    """Noise in the size that each image asks for, padded to one."""
    return ImageList.from_tensors([random(3, *size, seed=seed + number) for number, size in enumerate(sizes)])


@torch.no_grad()
def their_answer(model: Any, images: ImageList) -> Answer:
    """The loss function is where they have the predictions of all layers together."""
    mask = torch.zeros(len(images), *images.tensor.shape[-2:], dtype=torch.long)
    for shown, (h, w) in zip(mask, images.image_sizes):
        shown[:h, :w] = 1
    layers: list[Tensor] = []
    model.loss_function = lambda *given: layers.extend(given[-2:]) or (None, None, None)
    out = model(images.tensor, pixel_mask=mask, labels=[{}])
    answer = Answer(*layers, out.init_reference_points)
    if out.enc_outputs_class is not None:
        answer.objectness, answer.proposals = out.enc_outputs_class[..., 0], out.enc_outputs_coord_logits.sigmoid()
    return answer


def our_answer(detector: DETR, images: ImageList) -> Answer:
    """As in training: on the padded batch, where convolutions see padding as theirs do."""
    initial = detector.queries(memory := detector.encoder(detector.extract_features(images)))
    trace = detector.decoder(QuerySet((initial.group,)), memory)
    found = detector.heads(trace, detector.text)[DETECTION]
    answer = Answer(found.logits, found.boxes, initial.group.reference)
    if initial.predictions is not None:
        tokens = initial.predictions
        answer.objectness, answer.proposals, answer.valid = tokens.logits[0, ..., 0], tokens.boxes[0], tokens.valid
    return answer


def has_clear_choice(answer: Answer) -> bool:
    """Whether no two of the chosen tokens, nor the last of them and the first that is not, are as good as each other:
    such two may change places."""
    if answer.valid is None:
        return True
    best = answer.objectness.masked_fill(~answer.valid, -torch.inf).sort(1, descending=True).values[:, : QUERIES + 1]
    return float((best[:, :-1] - best[:, 1:]).min()) > TOLERANCE


def answered(variant: str, levels: int, sizes: Sequence[tuple[int, int]]) -> tuple[ImageList, Answer]:
    """Images of which the proposals are a clear choice, and our answer."""
    for seed in range(0, 100, 10):
        images = images_of(sizes, seed)
        with torch.no_grad():
            answer = our_answer(ours(variant, levels), images)
        if has_clear_choice(answer):
            return images, answer
    raise AssertionError("In none of ten batches are proposals a clear choice; are all tokens the same?")


def assert_same(variant: str, levels: int, sizes: Sequence[tuple[int, int]]) -> None:
    """Within the tolerance, whatever the scale."""
    images, mine = answered(variant, levels, sizes)
    theirs = their_answer(hugging_face(variant, levels), images)
    if mine.valid is not None:
        close(mine.objectness[mine.valid], theirs.objectness[mine.valid])
        close(mine.proposals[mine.valid], theirs.proposals[mine.valid])
    close(mine.references, theirs.references)
    assert mine.logits.shape == (3, len(sizes), QUERIES, 80)
    close(mine.logits, theirs.logits)
    close(mine.boxes, theirs.boxes)


def close(mine: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(mine, theirs, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("levels", MAPS)
@each_variant
def test_an_image_that_is_not_square_gives_the_same_boxes_and_logits(variant: str, levels: int) -> None:
    assert_same(variant, levels, ONE)


@pytest.mark.parametrize("levels", [1, 4])
@each_variant
def test_a_padded_batch_gives_the_same_boxes_and_logits(variant: str, levels: int) -> None:
    assert_same(variant, levels, PADDED)


@each_variant
def test_every_weight_has_a_say_in_what_is_compared(variant: str) -> None:
    """Otherwise parity would prove nothing of it."""
    detector = copy.deepcopy(ours(variant, 4))
    for parameter in detector.parameters():
        parameter.requires_grad_()
    answer = our_answer(detector, images_of(ONE))
    said = [answer.logits, answer.boxes]
    if answer.valid is not None:
        said += [answer.objectness, answer.proposals]
    sum((part * random(*part.shape, seed=number)).sum() for number, part in enumerate(said)).backward()
    silent = [name for name, p in detector.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-5]
    assert not silent


@each_variant
def test_detections_are_those_of_their_post_processing(variant: str) -> None:
    """From pixels to scores, labels and boxes of the original image; there, boxes are not clipped to it."""
    theirs, detector = hugging_face(variant, 4), ours(variant, 4)
    pixels = 127 + 50 * random(3, 96, 128)
    processor = transformers.DeformableDetrImageProcessor()
    with torch.no_grad():
        out = theirs((pixels[None] - detector.pixel_mean) / detector.pixel_std)
    (found,) = processor.post_process_object_detection(out, threshold=0.0, target_sizes=[(192, 200)], top_k=100)
    mine = detector([{"image": pixels, "height": 192, "width": 200}])[0]["instances"]
    assert len(mine) == 100
    close(mine.scores, found["scores"])
    assert torch.equal(mine.pred_classes, found["labels"])
    limits = torch.tensor([200.0, 192.0, 200.0, 192.0])
    torch.testing.assert_close(
        mine.pred_boxes.tensor, found["boxes"].clamp(min=0).minimum(limits), atol=200 * TOLERANCE, rtol=0
    )


def test_they_may_propose_padding_and_we_never_do() -> None:
    """The one difference: where tokens without an image rank high, theirs become queries, at the image's corner."""
    theirs = copy.deepcopy(hugging_face("two_stage", 2))
    rank_padding(theirs, 5.0)
    images = images_of(PADDED)
    nowhere = torch.ones(4)
    assert (their_answer(theirs, images).references == nowhere).all(-1).any()
    with torch.no_grad():
        mine = our_answer(converted(theirs), images)
    assert not (mine.references == nowhere).all(-1).any()
