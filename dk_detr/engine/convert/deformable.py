"""What the checkpoints of Deformable DETR have in common, whoever wrote them: neck, heads, first stage, COCO's ids."""

from collections.abc import Mapping
from typing import Any

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from dk_detr.engine.convert.conversion import Conversion
from dk_detr.engine.convert.ledger import Ledger
from dk_detr.engine.convert.names import count, matching
from dk_detr.engine.convert.torchvision_resnet import IMAGES
from dk_detr.engine.convert.whole import finish_detector

COCO_IDS = [category["id"] for category in COCO_CATEGORIES if category["isthing"]]
NUM_RAW_COCO_IDS = 91  # outputs of a head whose classes are COCO's ids themselves, 0 to 90
CONFIGS = {  # by (two stages, refinement)
    (False, False): "configs/deformable_detr_R50.yaml",
    (False, True): "configs/deformable_detr_refine_R50.yaml",
    (True, True): "configs/deformable_detr_two_stage_R50.yaml",
}
COPY = "a copy of a head that is used"
SHARED = "the same head again: without refinement one head serves all layers"
UNUSED_IDS = "outputs for ids between 0 and 90 that COCO gives to no category"
RANKS = "only the first output of the encoder's class head ranks proposals: it is trained with all labels set to 0"


def finish(source: str, ledger: Ledger, transformer: str, table: str, known: Mapping[str, Any]) -> Conversion:
    """What the tables of names and `neck` leave: queries and heads.

    Args:
        transformer: what the names of encoder and decoder begin with in the source.
        table: the name of the learned queries (Q, 2C): of a row, half is the position and half the content.
        known: config keys that a file beside the weights tells.
    """
    num_layers = count(ledger.state, f"{transformer}decoder.layers.{{n}}.{{rest}}")
    refined = any(True for _ in ledger.open(f"{transformer}decoder.bbox_embed.{{rest}}"))
    two_stage = any(True for _ in matching(ledger.state, f"{transformer}enc_output{{rest}}"))
    for head in ("class_embed", "bbox_embed"):
        ledger.fold(f"{transformer}decoder.{head}.{{rest}}", f"{head}.{{rest}}", COPY)
    if two_stage:
        _first_stage_heads(ledger, num_layers)
    else:
        ledger.split(table, ["queries.position.weight", "queries.content.weight"], dim=1)
    if refined:
        _heads_of_layers(ledger, num_layers)
    else:
        _shared_heads(ledger)
    choices = {
        "MODEL.DETR.QUERIES": "Proposals" if two_stage else "Learned",
        "MODEL.DETR.REFINEMENT": "Iterative" if refined else "FromReference",
        "MODEL.DETR.HEADS": "PerLayer" if refined else "Shared",
        "MODEL.DETR.CLASSIFIER.NAME": "Linear",
        **known,
    }
    config = CONFIGS.get((two_stage, refined), CONFIGS[True, True])
    return finish_detector(source, ledger, choices, config, _notes(ledger))


def known_settings(told: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """What a file beside the weights tells, by config key. Raises ValueError for a detector that cannot be built.

    Args:
        told: its contents. names: config key -> name in it.
    """
    if told.get("dilation"):
        raise ValueError(
            "This detector dilates the last stage of its backbone (DC5), all but the first block. Detectron2's "
            "MODEL.RESNETS.RES5_DILATION dilates the first block too: that would be another network."
        )
    return {key: told[name] for key, name in names.items() if name in told}


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


def _first_stage_heads(ledger: Ledger, number: int) -> None:
    objectness(ledger, f"class_embed.{number}", RANKS)
    for layer in range(3):
        for part in ("weight", "bias"):
            ledger.use(f"bbox_embed.{number}.layers.{layer}.{part}", f"queries.box_head.layers.{layer}.{part}")


def _heads_of_layers(ledger: Ledger, num_layers: int) -> None:
    for layer in range(num_layers):
        _class_head(ledger, _number_of_head(ledger, "class_embed", layer, num_layers), layer)
        _box_head(ledger, _number_of_head(ledger, "bbox_embed", layer, num_layers), layer)


def _number_of_head(ledger: Ledger, head: str, layer: int, num_layers: int) -> int:
    """The layer's own; or 0 where there is but one, as Hugging Face saves a head that all layers share."""
    numbers = {int(pieces["n"]) for _, pieces in matching(ledger.state, f"{head}.{{n}}.{{rest}}")}
    return layer if numbers & set(range(1, num_layers)) else 0


def _shared_heads(ledger: Ledger) -> None:
    ledger.fold("class_embed.{n}.{wb}", "class_embed.0.{wb}", SHARED)
    ledger.fold("bbox_embed.{n}.layers.{m}.{wb}", "bbox_embed.0.layers.{m}.{wb}", SHARED)
    _class_head(ledger, 0, 0)
    _box_head(ledger, 0, 0)


def _box_head(ledger: Ledger, number: int, ours: int) -> None:
    for layer in range(3):
        for part in ("weight", "bias"):
            ledger.use(f"bbox_embed.{number}.layers.{layer}.{part}", f"decoder.box_heads.{ours}.layers.{layer}.{part}")


def _class_head(ledger: Ledger, number: int, ours: int) -> None:
    for part in ("weight", "bias"):
        name = f"class_embed.{number}.{part}"
        tensor = ledger.get(name)
        if len(tensor) == NUM_RAW_COCO_IDS:
            unused = sorted(set(range(NUM_RAW_COCO_IDS)) - set(COCO_IDS))
            ledger.listed[f"{name}[{', '.join(map(str, unused))}]"] = UNUSED_IDS
            tensor = tensor[COCO_IDS]
        ledger.use(name, f"classifier.projections.{ours}.{part}", tensor)


def _notes(ledger: Ledger) -> list[str]:
    notes = [IMAGES]
    if len(ledger.target.get("encoder.level_embed", ())) == 1:
        notes.append("No shape tells whether the last stage of the backbone is dilated (DC5): that is not supported.")
    if UNUSED_IDS in ledger.listed.values():
        notes.append("The classes are the 80 of COCO in the order of their ids: MODEL.VOCABULARY.TEST coco.")
    else:
        number = len(ledger.target.get("classifier.projections.0.bias", ()))
        notes.append(f"The {number} classes must be named in this order by MODEL.VOCABULARY.TEST.")
    return notes
