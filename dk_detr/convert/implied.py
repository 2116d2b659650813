"""The detector that weights imply: its settings, read off names and shapes, and the tensors that it has.

The parts are built without memory (on PyTorch's "meta" device) by the same functions that build the real ones.
"""

from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock, ResNet
from torch import Tensor, nn

from dk_detr.config import add_dk_detr_config
from dk_detr.convert.names import count
from dk_detr.meta_arch.build import build_network

State = Mapping[str, Tensor]
Shapes = dict[str, torch.Size]
BLOCKS: dict[tuple[int, ...], int] = {  # of res2 … res5, and whether they have three convolutions
    (2, 2, 2, 2, False): 18,
    (3, 4, 6, 3, False): 34,
    (3, 4, 6, 3, True): 50,
    (3, 4, 23, 3, True): 101,
    (3, 8, 36, 3, True): 152,
}
TABLES = ("queries.content.weight", "queries.position.weight", "queries.anchors.weight")  # the last there has Q rows
STAGES = ("res2", "res3", "res4", "res5")


class Missing(ValueError):
    """A tensor of the result is not there; the message is its name."""


def _shape(state: State, name: str) -> torch.Size:
    if name not in state:
        raise Missing(name)
    return state[name].shape


def detector_settings(state: State, known: Mapping[str, Any]) -> dict[str, Any]:
    """The config keys that the shapes of a detector imply; those of `known`, which shapes cannot tell, are kept."""
    channels = _shape(state, "neck.mappers.0.0.weight")[0]
    num_mappers = count(state, "neck.mappers.{n}.{rest}")
    heads = known.get("MODEL.DETR.NUM_HEADS", 8)
    settings = {
        **backbone_settings(state),
        "MODEL.DETR.IN_FEATURES": list(STAGES[len(STAGES) - num_mappers :]),
        "MODEL.DETR.NUM_EXTRA_LEVELS": count(state, "neck.extra.{n}.{rest}"),
        "MODEL.DETR.CHANNELS": channels,
        "MODEL.DETR.NUM_HEADS": heads,
        "MODEL.DETR.ENCODER_LAYERS": count(state, "encoder.layers.{n}.{rest}"),
        "MODEL.DETR.DECODER_LAYERS": count(state, "decoder.layers.{n}.{rest}"),
        "MODEL.DETR.FFN_CHANNELS": _shape(state, "decoder.layers.0.ffn.linear1.weight")[0],
    }
    if num_mappers == len(STAGES):  # more than detectors usually look at
        settings["MODEL.RESNETS.OUT_FEATURES"] = list(STAGES)
    loop = known.get("MODEL.DETR.DECODER", "DETR") == "DETR"
    if loop and known.get("MODEL.DETR.DECODER_ATTENTION", "Deformable") == "Deformable":
        samples = _shape(state, "decoder.layers.0.cross_attention.attention_weights.weight")[0]
        settings["MODEL.DETR.NUM_POINTS"] = samples // len(state.get("encoder.level_embed", [0])) // heads
    for table in TABLES:
        if table in state:
            settings["MODEL.DETR.NUM_QUERIES"] = len(state[table])
    return {**settings, **known}


def detector_shapes(settings: Mapping[str, Any], state: State) -> Shapes:
    """Name and shape of each tensor of the detector with these settings, its backbone's sizes taken from the state."""
    cfg = _config(settings)
    detr = cfg.MODEL.DETR
    width = _shape(state, "classifier.projections.0.weight")[0] - (detr.CLASSIFIER.NAME == "LinearBackground")
    with torch.device("meta"):
        parts = build_network(cfg, _resnet(state), width, width)
    labels = torch.Size([width, detr.CHANNELS])  # of denoising; no source has another extension
    extensions = {f"extensions.{name}.content.weight": labels for name in cfg.MODEL.TRAINING_EXTENSIONS}
    return {**shapes_of(parts), **extensions}


def shapes_of(parts: Mapping[str, nn.Module]) -> Shapes:
    """Name and shape of each tensor, the names of the parts put before."""
    return {f"{part}.{name}": t.shape for part, module in parts.items() for name, t in module.state_dict().items()}


def backbone_settings(state: State) -> dict[str, Any]:
    """The config keys of a ResNet; without its depth where Detectron2 has none of such blocks."""
    groups, width = _groups_and_width(state, "res2")
    settings = {
        "MODEL.RESNETS.STEM_OUT_CHANNELS": _shape(state, "backbone.stem.conv1.weight")[0],
        "MODEL.RESNETS.RES2_OUT_CHANNELS": _width(state, "res2"),
        "MODEL.RESNETS.NUM_GROUPS": groups,
        "MODEL.RESNETS.WIDTH_PER_GROUP": width // groups,
    }
    depth = BLOCKS.get((*(_num_blocks(state, stage) for stage in STAGES), _is_deep(state)))
    return {"MODEL.RESNETS.DEPTH": depth, **settings} if depth else settings


def backbone_shapes(state: State) -> Shapes:
    """Name and shape of each tensor of the ResNet whose sizes the state implies."""
    with torch.device("meta"):
        return shapes_of({"backbone": _resnet(state)})


def _resnet(state: State) -> ResNet:
    stem = BasicStem(3, _shape(state, "backbone.stem.conv1.weight")[0], norm="FrozenBN")
    width, stages = stem.out_channels, []
    for stage in STAGES:
        out = _width(state, stage)
        sizes = {"in_channels": width, "out_channels": out, "norm": "FrozenBN", **_bottleneck(state, stage)}
        strides = [1 if stage == "res2" else 2] + [1] * (_num_blocks(state, stage) - 1)
        block = BottleneckBlock if _is_deep(state) else BasicBlock
        stages.append(ResNet.make_stage(block, len(strides), stride_per_block=strides, **sizes))
        width = out
    return ResNet(stem, stages, out_features=list(STAGES))


def _bottleneck(state: State, stage: str) -> dict[str, int]:
    if not _is_deep(state):
        return {}
    groups, width = _groups_and_width(state, stage)
    return {"bottleneck_channels": width, "num_groups": groups}


def _num_blocks(state: State, stage: str) -> int:
    return count(state, f"backbone.{stage}.{{n}}.{{rest}}")


def _is_deep(state: State) -> bool:
    return any(name.endswith(".conv3.weight") for name in state if name.startswith("backbone.res"))


def _width(state: State, stage: str) -> int:
    return _shape(state, f"backbone.{stage}.0.{'conv3' if _is_deep(state) else 'conv2'}.weight")[0]


def _groups_and_width(state: State, stage: str) -> tuple[int, int]:
    width = _shape(state, f"backbone.{stage}.0.conv1.weight")[0]
    fan_in = _shape(state, f"backbone.{stage}.0.conv2.weight")[1]
    return width // fan_in, width


def _config(settings: Mapping[str, Any]) -> CfgNode:
    cfg = get_cfg()
    add_dk_detr_config(cfg)
    cfg.merge_from_list([word for pair in settings.items() for word in pair])
    return cfg
