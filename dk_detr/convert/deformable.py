"""What the checkpoints of detectors with deformable attention have in common: neck, heads, first stage."""

from collections.abc import Mapping
from typing import Any

import torch

from dk_detr.convert.conversion import Conversion
from dk_detr.convert.heads import box_head, class_head, image_and_class_notes
from dk_detr.convert.ledger import Ledger
from dk_detr.convert.names import count, matching
from dk_detr.convert.single_level import UNTOLD
from dk_detr.convert.whole import finish_detector

CONFIGS = {  # by (two stages, refinement)
    (False, False): "configs/deformable_detr_R50.yaml",
    (False, True): "configs/deformable_detr_refine_R50.yaml",
    (True, True): "configs/deformable_detr_two_stage_R50.yaml",
}
COPY = "a copy of a head that is used"
SHARED = "the same head again: without refinement one head serves all layers"
SHARED_BY_CHOICE = "the same head again: one head serves all layers"
RANKS = "only the first output of the encoder's class head ranks proposals: it is trained with all labels set to 0"


def finish(source: str, ledger: Ledger, transformer: str, table: str, known: Mapping[str, Any]) -> Conversion:
    """What the tables of names and `neck` leave of a Deformable DETR: queries and heads.

    Args:
        transformer: what the names of encoder and decoder begin with in the source.
        table: the name of the learned queries (Q, 2C): of a row, half is the position and half the content.
        known: config keys that a file beside the weights tells.
    """
    parts = heads(ledger, transformer)
    two_stage = any(True for _ in matching(ledger.state, f"{transformer}enc_output{{rest}}"))
    if two_stage:
        number = _num_layers(ledger, transformer)
        objectness(ledger, f"class_embed.{number}", RANKS)
        box_head(ledger, f"bbox_embed.{number}", "queries.box_head")
    else:
        ledger.split(table, ["queries.position.weight", "queries.content.weight"], dim=1)
    choices = {
        "MODEL.DETR.QUERIES": "Proposals" if two_stage else "Learned",
        **parts,
        "MODEL.DETR.CLASSIFIER.NAME": "Linear",
        **known,
    }
    refined = parts["MODEL.DETR.REFINEMENT"] == "Iterative"
    return finish_with(source, ledger, choices, CONFIGS.get((two_stage, refined), CONFIGS[True, True]))


def finish_with(source: str, ledger: Ledger, choices: Mapping[str, Any], config: str) -> Conversion:
    """The conversion, with what has to be known of images and classes."""
    notes = image_and_class_notes(ledger)
    if len(ledger.target.get("encoder.level_embed", ())) == 1:
        notes.insert(1, UNTOLD)
    return finish_detector(source, ledger, choices, config, notes)


def neck(ledger: Ledger, name: str) -> None:
    """Levels of the neck: a convolution, 1×1 for a map of the backbone and 3×3 beyond, and a norm."""
    mappers = 0
    for level in range(count(ledger.state, name + ".{n}.{rest}")):
        beyond = ledger.get(f"{name}.{level}.0.weight").shape[-1] == 3
        ours = f"neck.extra.{level - mappers}" if beyond else f"neck.mappers.{level}"
        mappers += not beyond
        for part in ("0.weight", "0.bias", "1.weight", "1.bias"):
            ledger.use(f"{name}.{level}.{part}", f"{ours}.{part}")


def objectness(ledger: Ledger, name: str, reason: str) -> None:
    """The first output of a class head, weight and bias, is the objectness of a token; the others are listed."""
    for part in ("weight", "bias"):
        tensor = ledger.get(f"{name}.{part}")
        ledger.use(f"{name}.{part}", f"queries.objectness.{part}", tensor[:1])
        if len(tensor) > 1:
            ledger.listed[f"{name}.{part}[1:]"] = reason


def heads(ledger: Ledger, transformer: str) -> dict[str, str]:
    """Heads of the decoder, which has a copy of the box heads if it refines; and what that implies."""
    refined = any(True for _ in matching(ledger.state, f"{transformer}decoder.bbox_embed.{{rest}}"))
    _fold_copies(ledger, transformer)
    if refined:
        _heads_of_layers(ledger, _num_layers(ledger, transformer))
        return {"MODEL.DETR.REFINEMENT": "Iterative", "MODEL.DETR.HEADS": "PerLayer"}
    _shared_heads(ledger, SHARED)
    return {"MODEL.DETR.REFINEMENT": "FromReference", "MODEL.DETR.HEADS": "Shared"}


def heads_of_layers_or_one(ledger: Ledger, transformer: str) -> str:
    """Heads of a decoder whose layers may have the same; returns what MODEL.DETR.HEADS must be."""
    _fold_copies(ledger, transformer)
    if _differ(ledger, "class_embed") or _differ(ledger, "bbox_embed"):
        _heads_of_layers(ledger, _num_layers(ledger, transformer))
        return "PerLayer"
    _shared_heads(ledger, SHARED_BY_CHOICE)
    return "Shared"


def _fold_copies(ledger: Ledger, transformer: str) -> None:
    for head in ("class_embed", "bbox_embed"):
        ledger.fold(f"{transformer}decoder.{head}.{{rest}}", f"{head}.{{rest}}", COPY)


def _differ(ledger: Ledger, head: str) -> bool:
    """Whether any layer has weights that the first does not have."""
    of_layers = matching(ledger.state, f"{head}.{{n}}.{{rest}}")
    firsts = [(ledger.state[name], ledger.state.get(f"{head}.0.{pieces['rest']}")) for name, pieces in of_layers]
    return any(first is not None and not torch.equal(tensor, first) for tensor, first in firsts)


def _num_layers(ledger: Ledger, transformer: str) -> int:
    return count(ledger.state, f"{transformer}decoder.layers.{{n}}.{{rest}}")


def _heads_of_layers(ledger: Ledger, num_layers: int) -> None:
    for layer in range(num_layers):
        class_number = _number_of_head(ledger, "class_embed", layer, num_layers)
        class_head(ledger, f"class_embed.{class_number}", f"classifier.projections.{layer}")
        box_number = _number_of_head(ledger, "bbox_embed", layer, num_layers)
        box_head(ledger, f"bbox_embed.{box_number}", f"decoder.box_heads.{layer}")


def _number_of_head(ledger: Ledger, head: str, layer: int, num_layers: int) -> int:
    """The layer's own; or 0 where there is but one, as Hugging Face saves a head that all layers share."""
    numbers = {int(pieces["n"]) for _, pieces in matching(ledger.state, f"{head}.{{n}}.{{rest}}")}
    return layer if numbers & set(range(1, num_layers)) else 0


def _shared_heads(ledger: Ledger, reason: str) -> None:
    ledger.fold("class_embed.{n}.{wb}", "class_embed.0.{wb}", reason)
    ledger.fold("bbox_embed.{n}.layers.{m}.{wb}", "bbox_embed.0.layers.{m}.{wb}", reason)
    class_head(ledger, "class_embed.0", "classifier.projections.0")
    box_head(ledger, "bbox_embed.0", "decoder.box_heads.0")
