"""Convert: weights of other people's models, under the names of this project."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from dk_detr.convert import (
    adamixer,
    conditional_detr,
    dab_detr,
    deformable_detr,
    detr,
    dino,
    dn_detr,
    hf_conditional_detr,
    hf_dab_detr,
    hf_deformable_detr,
    hf_detr,
    open_clip,
    opera_dk_detr,
    opera_soit,
    regionclip,
    torchvision_resnet,
)
from dk_detr.convert.conversion import Conversion
from dk_detr.convert.names import matching, some

SOURCES = {
    "hf-detr": hf_detr,
    "hf-conditional-detr": hf_conditional_detr,
    "hf-deformable-detr": hf_deformable_detr,
    "hf-dab-detr": hf_dab_detr,
    # Each of these has names of the next ones, and more.
    "dn-detr": dn_detr,
    "dab-detr": dab_detr,
    "dino": dino,
    "deformable-detr": deformable_detr,
    "conditional-detr": conditional_detr,
    "detr": detr,
    "adamixer": adamixer,
    "opera-soit": opera_soit,  # has the same names as the next one
    "opera-dk-detr": opera_dk_detr,
    "regionclip": regionclip,
    "torchvision-resnet": torchvision_resnet,
    "open-clip": open_clip,
}
"""By the name that a user gives: modules with `convert` and with `SIGNS`, sets of names that tell the source; the
first that has one of its sets is it, if `is_it`, where there is one, says so of the tensors."""

__all__ = ["SOURCES", "Conversion", "convert", "likely_source"]


def convert(
    source: str, state: Mapping[str, Tensor], known: Mapping[str, Any] | None = None, leave: Sequence[str] = ()
) -> Conversion:
    """Weights of a source -> weights of this project, every tensor accounted for.

    Args:
        source: one of `SOURCES`. state: its tensors by name.
        known: what no shape tells: config keys, as MODEL.DETR.NUM_HEADS; see `known_settings` of the source.
        leave: tensors whose names begin so are listed, whatever they are.

    Raises:
        ValueError: the names are of another source, a tensor is unknown, missing, or of a shape that does not fit.
    """
    if source not in SOURCES:
        raise ValueError(f'There is no source "{source}"; choose one of {", ".join(SOURCES)}.')
    left = {name: "left out on request" for name in state if name.startswith(tuple(leave))}
    state = {name: tensor for name, tensor in state.items() if name not in left}
    likely = likely_source(state)
    if likely != source:
        advice = f"they look like {likely}" if likely else f"they look like no source of {', '.join(SOURCES)}"
        raise ValueError(f"These are not the names of {source}: {advice}. The first are {some(sorted(state))}.")
    conversion = SOURCES[source].convert(state, known or {})
    return replace(conversion, listed=conversion.listed | left)


def likely_source(state: Mapping[str, Tensor]) -> str:
    """The source whose names these tensors have; "" for none."""
    for source, module in SOURCES.items():
        signs_of_all = any(all(any(True for _ in matching(state, sign)) for sign in signs) for signs in module.SIGNS)
        if signs_of_all and (not hasattr(module, "is_it") or module.is_it(state)):
            return source
    return ""
