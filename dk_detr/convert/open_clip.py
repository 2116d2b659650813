"""CLIP by the names of OpenAI and open_clip, or of Hugging Face's transformers: a teacher, and of a ResNet a backbone.

The teacher comes out by open_clip's names, as plain tensors: OpenAI's own files are TorchScript archives, which a safe
`torch.load` does not take.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dk_detr.convert.clip_models import architectures, clip_shapes, implied_config, is_resnet, resnet_blocks
from dk_detr.convert.conversion import Conversion
from dk_detr.convert.implied import Missing
from dk_detr.convert.ledger import Ledger
from dk_detr.convert.names import renamed
from dk_detr.convert.torchvision_resnet import resnet_left_out, stage_names
from dk_detr.convert.whole import absence, check_shapes
from dk_detr.modeling.clip_resnet import BLOCKS

SIGNS = (
    ("visual.conv1.weight", "token_embedding.weight"),
    ("vision_model.embeddings.patch_embedding.weight", "text_model.embeddings.token_embedding.weight"),
)
SAME = (
    "visual.{rest}", "transformer.resblocks.{rest}", "token_embedding.weight", "positional_embedding", "ln_final.{wb}",
    "text_projection", "logit_scale",
)  # fmt: skip
OPENAI = "input_resolution"  # is only in OpenAI's archives
NUMBER, MASK = "a number beside the weights", "a mask that follows from the length of a text"
LEFT_OUT = {
    **resnet_left_out("visual."),
    **{name: NUMBER for name in (OPENAI, "context_length", "vocab_size")},
    "{rest}.position_ids": "the numbers 0, 1, 2, …",
    "attn_mask": MASK,
    "{rest}.attn_mask": MASK,
}
TOWERS = {"vision_model.encoder.layers.{n}.": "visual.", "text_model.encoder.layers.{n}.": ""}
LAYER = {  # of a transformer
    "self_attn.out_proj.{wb}": "attn.out_proj.{wb}",
    "layer_norm1.{wb}": "ln_1.{wb}",
    "layer_norm2.{wb}": "ln_2.{wb}",
    "mlp.fc1.{wb}": "mlp.c_fc.{wb}",
    "mlp.fc2.{wb}": "mlp.c_proj.{wb}",
}
HUGGING_FACE = {
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.{wb}": "visual.ln_pre.{wb}",
    "vision_model.post_layernorm.{wb}": "visual.ln_post.{wb}",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.{wb}": "ln_final.{wb}",
    **{
        f"{tower}{theirs}": f"{ours}transformer.resblocks.{{n}}.{part}"
        for tower, ours in TOWERS.items()
        for theirs, part in LAYER.items()
    },
}
TRANSPOSED = {"visual_projection.weight": "visual.proj", "text_projection.weight": "text_projection"}
BACKBONE = {
    "visual.conv{m}.weight": "backbone.stem.conv{m}.weight",
    "visual.bn{m}.{norm}": "backbone.stem.conv{m}.norm.{norm}",
    **stage_names("visual."),
}
PIXELS = {
    "MODEL.PIXEL_MEAN": [122.7709383, 116.7460125, 104.09373615],
    "MODEL.PIXEL_STD": [68.5005327, 66.6321579, 70.32316305],
}


def convert(state: Mapping[str, Tensor], known: Mapping[str, Any]) -> Conversion:
    """Both towers for the teacher; of a ResNet besides the maps that its attention pools, for a detector."""
    ledger = Ledger(state)
    ledger.leave(LEFT_OUT)
    ledger.rename(HUGGING_FACE)
    for tower, ours in TOWERS.items():
        qkv = [f"{tower}self_attn.{letter}_proj.{{wb}}" for letter in "qkv"]
        ledger.join(qkv, f"{ours}transformer.resblocks.{{n}}.attn.in_proj_{{wb}}")
    for theirs, ours in TRANSPOSED.items():
        if theirs in ledger.state:
            ledger.use(theirs, ours, ledger.get(theirs).T)
    ledger.rename({name: name for name in SAME})
    ledger.check()
    try:
        config = implied_config(ledger.target)
    except Missing as missing:
        raise ValueError(f"{absence(ledger, str(missing))} A CLIP with both towers is wanted.") from None
    check_shapes(ledger, clip_shapes(config))
    settings, notes = _architecture(config, OPENAI in state or bool(known.get("quick_gelu")))
    backbone = _backbone(ledger) if is_resnet(ledger.target) else {}
    settings |= _backbone_settings(ledger.target) if backbone else {}
    base = "configs/Base-DETR.yaml" if backbone else ""
    return Conversion("open-clip", backbone, *ledger.account(), settings, base, notes, ledger.target)


def known_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """What Hugging Face's config.json tells and no shape does."""
    return {"quick_gelu": config.get("vision_config", {}).get("hidden_act", "quick_gelu") == "quick_gelu"}


def _architecture(config: Mapping[str, Any], quick_gelu: bool) -> tuple[dict[str, Any], tuple[str, ...]]:
    names = architectures(config)
    if not names:
        return {}, ("No model of open_clip has these sizes: write its config, a .json, for MODEL.CLIP.ARCHITECTURE.",)
    chosen = next((name for name in names if name.endswith("-quickgelu") == quick_gelu), names[0])
    others = [name for name in names if name != chosen]
    if not others:
        return {"MODEL.CLIP.ARCHITECTURE": chosen}, ()
    doubt = f"No shape tells {chosen} from {', '.join(others)}: OpenAI's models have QuickGELU, most others GELU."
    return {"MODEL.CLIP.ARCHITECTURE": chosen}, (doubt,)


def _backbone(ledger: Ledger) -> dict[str, Tensor]:
    """The tensors of a ResNet once more, under the names of a backbone."""
    backbone: dict[str, Tensor] = {}
    for name, tensor in ledger.target.items():
        ours = renamed(name, BACKBONE)
        if ours is not None:
            backbone[ours] = tensor
            ledger.used[name].append(ours)
    return backbone


def _backbone_settings(state: Mapping[str, Tensor]) -> dict[str, Any]:
    width = len(state["visual.conv3.weight"])
    settings = {
        "MODEL.BACKBONE.NAME": "build_clip_resnet_backbone",
        "MODEL.RESNETS.STEM_OUT_CHANNELS": width,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 4 * width,
        **PIXELS,
    }
    depth = next((depth for depth, blocks in BLOCKS.items() if list(blocks) == resnet_blocks(state)), None)
    return {**settings, "MODEL.RESNETS.DEPTH": depth} if depth else settings
