"""Parity: DETR, Conditional DETR and DAB-DETR of Hugging Face, converted, say the same here in every decoder layer.

Weights are random and nothing is zero that starts at zero; nothing is downloaded. Where their code is not that of the
authors: DAB-DETR's logits of references are clamped at 1e-5 there and here, at 1e-3 in the release (it matters within a
thousandth of the border). Their `auxiliary_loss` is off: with it, DETR and Conditional DETR of transformers 5.23 send
the normed output of a layer on to the next one, which the authors' code does not, nor ours. Positions are the same to
their 1e-6 beside the extent; dropout is of training.
D layers, B images, Q queries.
"""

import copy
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.structures import ImageList
from torch import Tensor

from dk_detr.convert import SOURCES, Conversion, convert, likely_source
from dk_detr.convert.reading import read_checkpoint
from dk_detr.meta_arch import DETR
from dk_detr.structures import DETECTION, QuerySet
from tests.model_fixtures import fixed_seed, random, stir
from tests.parity.detector import detector_of
from tests.parity.published import accounted

transformers = pytest.importorskip("transformers", reason="parity is with Hugging Face's transformers")

QUERIES, TOLERANCE = 10, 1e-4
MODELS = {"hf-detr": "Detr", "hf-conditional-detr": "ConditionalDetr", "hf-dab-detr": "DabDetr"}
CONFIGS = {"hf-detr": "detr", "hf-conditional-detr": "conditional_detr", "hf-dab-detr": "dab_detr"}
SMALL = {
    "encoder_layers": 2, "decoder_layers": 3, "encoder_ffn_dim": 48, "decoder_ffn_dim": 40, "num_labels": 80,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "num_queries": QUERIES,
}  # fmt: skip
ONE = [(96, 160)]
PADDED = [(160, 96), (75, 150), (160, 160)]
each_source = pytest.mark.parametrize("source", MODELS)


@cache
def hugging_face(source: str, **more: Any) -> Any:
    """Their detector on a thin R50, with noise on all weights and on the statistics of the frozen norms."""
    width = "hidden_size" if source == "hf-dab-detr" else "d_model"
    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[16, 32, 64, 128], depths=[3, 4, 6, 3], out_features=["stage4"]
    )
    sizes = {**SMALL, width: 64, "encoder_ffn_dim": 40, **more}
    config = getattr(transformers, f"{MODELS[source]}Config")(backbone_config=backbone, **sizes)
    with fixed_seed():
        model = getattr(transformers, f"{MODELS[source]}ForObjectDetection")(config).eval()
    stir(stir(model).model.decoder)  # twice, so that queries differ enough for it to matter at whom they look
    for number, (name, statistic) in enumerate(model.named_buffers()):
        noise = 0.1 * random(*statistic.shape, seed=number)
        statistic.copy_((statistic + noise).abs() if name.endswith("running_var") else statistic + noise)
    return model


def converted(source: str, theirs: Any) -> Conversion:
    return convert(source, theirs.state_dict(), SOURCES[source].known_settings(theirs.config.to_dict()))


@cache
def ours(source: str, **more: Any) -> DETR:
    return detector_of(converted(source, hugging_face(source, **more)))


def images_of(sizes: Sequence[tuple[int, int]]) -> ImageList:
    """Noise in the size that each image asks for, padded to one."""
    return ImageList.from_tensors([random(3, *size, seed=number) for number, size in enumerate(sizes)])


@torch.no_grad()
def their_answer(model: Any, images: ImageList) -> tuple[Tensor, Tensor]:
    """(D, B, Q, K) logits and (D, B, Q, 4) boxes: what their detector says at the end, with as many layers."""
    mask = torch.zeros(len(images), *images.tensor.shape[-2:], dtype=torch.long)
    for shown, (h, w) in zip(mask, images.image_sizes):
        shown[:h, :w] = 1
    model, answers = copy.deepcopy(model), []
    decoder, layers = model.model.decoder, model.model.decoder.layers
    for number in range(1, len(layers) + 1):
        decoder.layers, decoder.num_layers = layers[:number], number
        answers.append(model(images.tensor, pixel_mask=mask))
    return torch.stack([out.logits for out in answers]), torch.stack([out.pred_boxes for out in answers])


def our_answer(detector: DETR, images: ImageList) -> tuple[Tensor, Tensor]:
    """As in training: on the padded batch, where convolutions see padding as theirs do."""
    initial = detector.queries(memory := detector.encoder(detector.extract_features(images)))
    trace = detector.decoder(QuerySet((initial.group,)), memory)
    found = detector.heads(trace, detector.text)[DETECTION]
    return found.logits, found.boxes


def assert_same(theirs: Any, detector: DETR, sizes: Sequence[tuple[int, int]]) -> None:
    """Within the tolerance, whatever the scale."""
    images = images_of(sizes)
    with torch.no_grad():
        logits, boxes = our_answer(detector, images)
    their_logits, their_boxes = their_answer(theirs, images)
    assert logits.shape[:2] == (3, len(sizes)) and boxes.shape == (*logits.shape[:3], 4)
    torch.testing.assert_close(logits, their_logits, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(boxes, their_boxes, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("sizes", [ONE, PADDED], ids=["not_square", "padded_batch"])
@each_source
def test_boxes_and_logits_of_all_layers_are_the_same(source: str, sizes: list[tuple[int, int]]) -> None:
    assert_same(hugging_face(source), ours(source), sizes)


def test_anchors_with_patterns_are_as_many_queries() -> None:
    detector = ours("hf-dab-detr", num_patterns=2)
    assert detector.queries.num_queries == 2 * QUERIES
    assert_same(hugging_face("hf-dab-detr", num_patterns=2), detector, PADDED)


@each_source
def test_every_weight_has_a_say_in_what_is_compared(source: str) -> None:
    """Otherwise parity would prove nothing of it; all but those that have none by construction."""
    detector = copy.deepcopy(ours(source))
    for parameter in detector.parameters():
        parameter.requires_grad_()
    logits, boxes = our_answer(detector, images_of(ONE))
    ((logits * random(*logits.shape)).sum() + (boxes * random(*boxes.shape, seed=1)).sum()).backward()
    silent = {name for name, p in detector.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-5}
    assert silent <= mute(detector)


def mute(detector: DETR) -> set[str]:
    """Contents of zero leave the first layer without weights for contents; its values are all the same then, and who
    looks at whom does not matter. Biases of keys add the same to all scores of a query."""
    names = {name for name, _ in detector.named_parameters()}
    first = {name for name in names if name.startswith("decoder.layers.0.self_attention.")} - {
        "decoder.layers.0.self_attention.value.bias", "decoder.layers.0.self_attention.in_proj_bias",
        "decoder.layers.0.self_attention.out_proj.weight", "decoder.layers.0.self_attention.out_proj.bias",
    }  # fmt: skip
    return first | {name for name in names if name.endswith(("k_content.bias", "k_position.bias"))}


@each_source
def test_every_tensor_is_used_or_listed(source: str) -> None:
    conversion = converted(source, hugging_face(source))
    assert accounted(conversion.used, conversion.listed) == set(hugging_face(source).state_dict())
    assert conversion.config == f"configs/{CONFIGS[source]}_R50.yaml"
    assert all("bbox_embed" in name for name in conversion.listed)


@each_source
def test_a_folder_on_disk_becomes_the_same(source: str, tmp_path: Path) -> None:
    """Names there are older, and weights that are shared are there once."""
    hugging_face(source).save_pretrained(tmp_path)
    folder = read_checkpoint(str(tmp_path))
    assert likely_source(folder.state) == likely_source(hugging_face(source).state_dict()) == source
    found = convert(source, folder.state, SOURCES[source].known_settings(folder.config))
    expected = converted(source, hugging_face(source))
    assert found.state.keys() == expected.state.keys() and found.settings == expected.settings
    assert all(torch.equal(tensor, expected.state[name]) for name, tensor in found.state.items())


def test_detections_of_detr_are_those_of_their_post_processing() -> None:
    """Of each query the best word, with its share in the softmax."""
    theirs, detector = hugging_face("hf-detr"), ours("hf-detr")
    pixels = 127 + 50 * random(3, 96, 160)
    with torch.no_grad():
        out = theirs((pixels[None] - detector.pixel_mean) / detector.pixel_std)
    processor = transformers.DetrImageProcessor()
    (found,) = processor.post_process_object_detection(out, threshold=0.0, target_sizes=[(96, 160)])
    mine = detector([{"image": pixels, "height": 96, "width": 160}])[0]["instances"]
    mine = mine[mine.scores > 0]
    order = found["scores"].argsort(descending=True)
    torch.testing.assert_close(mine.scores, found["scores"][order], atol=TOLERANCE, rtol=0)
    assert torch.equal(mine.pred_classes, found["labels"][order])
