"""AdaMixer as its authors' repository names it (MCG-NJU/AdaMixer), by mmdet's names."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dk_detr.convert.conversion import Conversion
from dk_detr.convert.heads import class_head, image_and_class_notes
from dk_detr.convert.ledger import Ledger
from dk_detr.convert.names import count
from dk_detr.convert.torchvision_resnet import resnet_left_out, resnet_names
from dk_detr.convert.whole import finish_detector

STAGE = "roi_head.bbox_head.{n}."
MIXING = STAGE + "sampling_n_mixing.adaptive_mixing."
SIGNS = (("rpn_head.init_content_features.weight", STAGE + "iof_tau", "neck.gn_out.weight"),)
NAMES = {
    "neck.lateral_convs.{n}.conv.{wb}": "neck.mappers.{n}.0.{wb}",
    "neck.gn_out.{wb}": "neck.norm.{wb}",
    "rpn_head.init_content_features.weight": "queries.content.weight",
    STAGE + "attention.attn.in_proj_{wb}": "decoder.layers.{n}.self_attention.in_proj_{wb}",
    STAGE + "attention.attn.out_proj.{wb}": "decoder.layers.{n}.self_attention.out_proj.{wb}",
    STAGE + "iof_tau": "decoder.layers.{n}.self_attention.iof_tau",
    STAGE + "attention_norm.{wb}": "decoder.layers.{n}.norm1.{wb}",
    STAGE + "sampling_n_mixing.sampling_offset_generator.0.{wb}": "decoder.layers.{n}.sampling.offsets.{wb}",
    MIXING + "parameter_generator.0.{wb}": "decoder.layers.{n}.mixing.parameter_generator.{wb}",
    MIXING + "out_proj.{wb}": "decoder.layers.{n}.mixing.out.{wb}",
    STAGE + "sampling_n_mixing.norm.{wb}": "decoder.layers.{n}.norm2.{wb}",
    STAGE + "ffn.layers.0.0.{wb}": "decoder.layers.{n}.ffn.linear1.{wb}",
    STAGE + "ffn.layers.1.{wb}": "decoder.layers.{n}.ffn.linear2.{wb}",
    STAGE + "ffn_norm.{wb}": "decoder.layers.{n}.ffn.norm.{wb}",
    STAGE + "cls_fcs.{m}.{wb}": "decoder.layers.{n}.class_branch.{m}.{wb}",
    STAGE + "reg_fcs.{m}.{wb}": "decoder.layers.{n}.box_branch.{m}.{wb}",
    STAGE + "fc_reg.{wb}": "decoder.layers.{n}.box_head.{wb}",
    **resnet_names("backbone."),
}
BOXES = "constant: every query begins as the whole image"


def convert(state: Mapping[str, Tensor], known: Mapping[str, Any]) -> Conversion:
    """Of a ResNet without deformable convolutions."""
    _refuse_other_backbones(state)
    ledger = Ledger(state)
    ledger.rename(NAMES)
    ledger.leave({"rpn_head.init_proposal_bboxes.weight": BOXES, **resnet_left_out("backbone.")})
    for stage in range(count(ledger.state, STAGE + "{rest}")):
        class_head(ledger, f"roi_head.bbox_head.{stage}.fc_cls", f"classifier.projections.{stage}")
    choices = {
        "MODEL.DETR.QUERIES": "WholeImage",
        "MODEL.DETR.DECODER": "AdaMixer",
        "MODEL.DETR.BOXES": "ScaleRatio",
        "MODEL.DETR.NECK_NORM": "SharedGN",
        "MODEL.DETR.CLASSIFIER.NAME": "Linear",
        "MODEL.DETR.NUM_HEADS": len(ledger.get("roi_head.bbox_head.0.iof_tau")),
        **_sizes(ledger),
        **known,
    }
    many = len(ledger.get("rpn_head.init_content_features.weight")) > 100
    config = "configs/adamixer_R50_3x_300.yaml" if many else "configs/adamixer_R50_1x.yaml"
    return finish_detector("adamixer", ledger, choices, config, image_and_class_notes(ledger))


def _refuse_other_backbones(state: Mapping[str, Tensor]) -> None:
    if any(".conv_offset." in name for name in state):
        raise ValueError("The backbone has deformable convolutions (DCN), which this project does not offer.")
    if "backbone.patch_embed.projection.weight" in state:
        raise ValueError("The backbone is a Swin transformer, which this project does not offer.")


def _sizes(ledger: Ledger) -> dict[str, int]:
    """Groups and points, which several shapes tell together: G·P·3 offsets; G·(c² + P·O) weights for c = C / G."""
    offsets = len(ledger.get("roi_head.bbox_head.0.sampling_n_mixing.sampling_offset_generator.0.bias"))
    name = "roi_head.bbox_head.0.sampling_n_mixing.adaptive_mixing"
    weights = len(ledger.get(f"{name}.parameter_generator.0.bias"))
    channels, flat = ledger.get(f"{name}.out_proj.weight").shape
    out_points = flat // channels
    groups = channels**2 // max(1, weights - out_points * offsets // 3)
    sizes = {"GROUPS": groups, "POINTS": offsets // 3 // max(1, groups), "OUT_POINTS": out_points}
    return {f"MODEL.DETR.ADAMIXER.{key}": value for key, value in sizes.items()}
