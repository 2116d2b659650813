"""RegionCLIP as its authors released it (microsoft/RegionCLIP): pretrained, or transferred to detection."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dk_detr.convert.clip_models import is_resnet, resnet_blocks, tower_shapes
from dk_detr.convert.conversion import Conversion
from dk_detr.convert.implied import Missing
from dk_detr.convert.ledger import Ledger
from dk_detr.convert.names import matching
from dk_detr.convert.torchvision_resnet import resnet_left_out
from dk_detr.convert.whole import absence, check_shapes

SIGNS = (("backbone.attnpool.c_proj.weight", "backbone.layer4.0.conv1.weight"),)
TOWER = {"backbone.{rest}": "visual.{rest}"}
TEXT = {f"lang_encoder.{name}": name for name in (
    "transformer.resblocks.{rest}", "token_embedding.weight", "positional_embedding", "ln_final.{wb}",
    "text_projection", "logit_scale",
)}  # fmt: skip
DETECTOR = {
    "roi_heads.box_predictor.bbox_pred.{wb}": "heads.boxes.bbox_pred.{wb}",
    "roi_heads.mask_head.deconv.{wb}": "heads.mask_head.deconv.{wb}",
    "roi_heads.mask_head.predictor.{wb}": "heads.mask_head.predictor.{wb}",
    "offline_backbone.{rest}": "localizer.network.backbone.{rest}",
    "offline_proposal_generator.{rest}": "localizer.network.proposal_generator.{rest}",
}
WORDS = "embeddings of words, which MODEL.VOCABULARY says: a file's would silently take the place of others"
LEFT_OUT = {
    **resnet_left_out("backbone."),
    **resnet_left_out("offline_backbone."),
    "roi_heads.box_predictor.cls_score.weight": WORDS,
    "roi_heads.box_predictor.test_cls_score.weight": WORDS,
    "roi_heads.box_predictor.cls_bg_score.weight": "zeros, the logit of the background",
    "{rest}.anchor_generator.cell_anchors.{n}": "anchors, which the localizer's config says",
    "teacher_backbone.{rest}": "the teacher of the pretraining, a CLIP as it was",
    "lang_encoder.attn_mask": "a mask that follows from the length of a text",
}
OF_A_DETECTOR = {"lang_encoder.{rest}": "the text encoder: words are encoded beforehand, by MODEL.CLIP"}
OF_A_CLIP = {
    "offline_{rest}": "the localizer of the pretraining: a CLIP has none",
    "roi_heads.{rest}": "heads without weights of their own",
}
TEMPERATURE = 0.01
NAMES: dict[tuple[int, ...], str] = {(3, 4, 6, 3): "RN50", (4, 6, 10, 6): "RN50x4"}
NOTES = (
    "Images come in RGB, normalised as CLIP's; the localizer's in BGR: both are in projects/RegionCLIP/configs.",
    "The release multiplies scores with the localizer's raw logit on LVIS: MODEL.REGIONCLIP.FUSION \"raw_logit\".",
)
TOWER_ALONE = "An image tower alone, for MODEL.CLIP.IMAGE_WEIGHTS: the text encoder stays that of MODEL.CLIP.WEIGHTS."
NO_LOCALIZER = "It holds no localizer: name one in MODEL.REGIONCLIP.LOCALIZER, or merge it in, --localizer FILE."


def convert(state: Mapping[str, Tensor], known: Mapping[str, Any]) -> Conversion:
    """A pretrained release becomes a CLIP, a transferred one a detector."""
    ledger = Ledger(state)
    transferred = any(True for _ in matching(state, "roi_heads.box_predictor.bbox_pred.{wb}"))
    ledger.leave({**LEFT_OUT, **(OF_A_DETECTOR if transferred else OF_A_CLIP)})
    ledger.rename({**DETECTOR, **TEXT, **TOWER})
    ledger.check()
    if not is_resnet(ledger.target):
        raise ValueError(absence(ledger, "visual.layer1.0.conv1.weight"))
    target = ledger.target
    tower = {name: tensor for name, tensor in target.items() if name.startswith("visual.")}
    detector = {name: tensor for name, tensor in target.items() if name.startswith(("heads.", "localizer."))}
    text = {name: tensor for name, tensor in target.items() if name not in tower and name not in detector}
    _check(ledger, tower, detector)
    name = NAMES.get(tuple(resnet_blocks(tower)), "")
    settings = {"MODEL.CLIP.ARCHITECTURE": f"{name}-quickgelu"} if name else {}
    if not transferred and text:
        clip = {**tower, **text, **({} if "logit_scale" in text else {"logit_scale": _logit_scale()})}
        return Conversion("regionclip", {}, *ledger.account(), settings, "", (), clip)
    whole = {**{f"recognizer.{key}": tensor for key, tensor in tower.items()}, **detector}
    if not transferred:
        return Conversion("regionclip", whole, *ledger.account(), settings, "", (TOWER_ALONE,))
    masks = any(key.startswith("heads.mask_head.") for key in detector)
    config = f"projects/RegionCLIP/configs/transfer_{'lvis' if masks else 'ov_coco'}_{name or 'RN50'}.yaml"
    found = any(key.startswith("localizer.") for key in detector)
    notes = NOTES if found else (*NOTES, NO_LOCALIZER)
    return Conversion("regionclip", whole, *ledger.account(), settings, config, notes)


def with_localizer(state: Mapping[str, Tensor], detector: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a release with the proposal network of another detector, by Detectron2's names.

    Raises: ValueError where it holds none, or the release has one already.
    """
    parts = {
        f"offline_{name}": tensor
        for name, tensor in detector.items()
        if name.startswith(("backbone.", "proposal_generator."))
    }
    if not any(name.startswith("offline_proposal_generator.") for name in parts):
        raise ValueError("there is no proposal network in it (proposal_generator.…).")
    if not any(True for _ in matching(state, "roi_heads.box_predictor.bbox_pred.{wb}")):
        raise ValueError("the release is pretrained, not a detector: leave --localizer out.")
    if any(True for _ in matching(state, "offline_backbone.{rest}")):
        raise ValueError("the release holds a localizer already: leave --localizer out.")
    return {**state, **parts}


def _check(ledger: Ledger, tower: Mapping[str, Tensor], detector: Mapping[str, Tensor]) -> None:
    """Of the tower and the heads; a localizer is looked at when it is loaded, by its own config."""
    try:
        shapes = dict(tower_shapes(tower))
    except Missing as missing:
        raise ValueError(absence(ledger, str(missing))) from None
    width, channels = (shapes["visual.attnpool.c_proj.weight"][axis] for axis in (0, 1))
    wanted = {
        "heads.boxes.bbox_pred.weight": torch.Size((4, width)),
        "heads.boxes.bbox_pred.bias": torch.Size((4,)),
    }
    if "heads.mask_head.deconv.bias" in detector:
        hidden = len(detector["heads.mask_head.deconv.bias"])
        wanted |= {
            "heads.mask_head.deconv.weight": torch.Size((channels, hidden, 2, 2)),
            "heads.mask_head.deconv.bias": torch.Size((hidden,)),
            "heads.mask_head.predictor.weight": torch.Size((1, hidden, 1, 1)),
            "heads.mask_head.predictor.bias": torch.Size((1,)),
        }
    heads = {name: tensor for name, tensor in detector.items() if name.startswith("heads.")}
    checked = Ledger(ledger.state)
    checked.tables = ledger.tables
    checked.target = {**tower, **heads}
    check_shapes(checked, {**shapes, **(wanted if heads else {})})


def _logit_scale() -> Tensor:
    """Of the release's fixed temperature."""
    return torch.tensor(math.log(1 / TEMPERATURE))
