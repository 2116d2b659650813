"""The CLIP that weights imply: its config, read off the shapes; what open_clip makes of that, and calls it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dk_detr.convert.implied import Missing, Shapes
from dk_detr.convert.names import count

State = Mapping[str, Tensor]


def implied_config(state: State) -> dict[str, Any]:
    """The open_clip model config that the shapes imply; heads take no part in them and are as usual, of width 64."""
    width = _shape(state, "ln_final.weight")[0]
    text = {
        "context_length": _shape(state, "positional_embedding")[0],
        "vocab_size": _shape(state, "token_embedding.weight")[0],
        "width": width,
        "heads": max(width // 64, 1),
        "layers": count(state, "transformer.resblocks.{n}.{rest}"),
    }
    return {"embed_dim": _shape(state, "text_projection")[1], "vision_cfg": _vision(state), "text_cfg": text}


def _vision(state: State) -> dict[str, Any]:
    conv, resnet = _shape(state, "visual.conv1.weight"), is_resnet(state)
    places = _shape(state, f"visual.{'attnpool.' if resnet else ''}positional_embedding")[0] - 1
    side = round(places**0.5)
    if resnet:
        return {"image_size": 32 * side, "layers": resnet_blocks(state), "width": 2 * conv[0], "patch_size": None}
    layers = count(state, "visual.transformer.resblocks.{n}.{rest}")
    return {"image_size": side * conv[-1], "layers": layers, "width": conv[0], "patch_size": conv[-1]}


def _shape(state: State, name: str) -> torch.Size:
    if name not in state:
        raise Missing(name)
    return state[name].shape


def is_resnet(state: State) -> bool:
    """Whether the image tower is CLIP's ResNet; otherwise it is a ViT."""
    return "visual.layer1.0.conv1.weight" in state


def resnet_blocks(state: State) -> list[int]:
    """Blocks of each stage."""
    return [count(state, f"visual.layer{stage}.{{n}}.{{rest}}") for stage in range(1, 5)]


def clip_shapes(config: Mapping[str, Any]) -> Shapes:
    """Name and shape of each tensor of open_clip's model of this config, counters of batches left out."""
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    vision = config["vision_cfg"]
    head_width = 64 if vision["patch_size"] is None else 1  # heads of a ViT need not be of the usual width
    with torch.device("meta"):
        image = CLIPVisionCfg(**vision, head_width=head_width)
        model = CLIP(config["embed_dim"], image, CLIPTextCfg(**{**config["text_cfg"], "heads": 1}))
    state = model.state_dict().items()
    return {name: tensor.shape for name, tensor in state if not name.endswith("num_batches_tracked")}


def tower_shapes(state: State) -> Shapes:
    """The same of the image tower alone, a ResNet of CLIP's, that its own shapes imply; names begin with "visual."."""
    from open_clip.modified_resnet import ModifiedResNet

    vision, width = _vision(state), _shape(state, "visual.attnpool.c_proj.weight")[0]
    with torch.device("meta"):
        heads = vision["width"] // 2
        tower = ModifiedResNet(vision["layers"], width, heads, vision["image_size"], vision["width"])
    named = tower.state_dict().items()
    return {f"visual.{name}": tensor.shape for name, tensor in named if not name.endswith("num_batches_tracked")}


def architectures(config: Mapping[str, Any]) -> list[str]:
    """The models of open_clip that have this config, activations aside."""
    import open_clip

    models = ((name, open_clip.get_model_config(name)) for name in open_clip.list_models())
    return [name for name, model in models if {k: v for k, v in model.items() if k != "quick_gelu"} == config]
