"""Tiny students and teachers of every family, and the steps that they make."""

from typing import Any

from detectron2.config import get_cfg
from torch import Tensor

from dk_detr.extensions import BuildContext
from dk_detr.meta_arch import DETR
from dk_detr.structures import Vocabulary
from projects.DETRDistill.detrdistill import DETRDistill
from projects.DETRDistill.detrdistill.config import add_config
from projects.DETRDistill.detrdistill.extension import parts_of
from projects.DETRDistill.detrdistill.side import Side
from projects.DETRDistill.detrdistill.step import Step
from projects.DETRDistill.detrdistill.teacher import Sight
from tests.model_fixtures import configured_detector, fixed_seed, stir, tiny_input, training_losses

INPUTS = [tiny_input(seed=1), tiny_input((32, 40), 3, seed=2)]
ONE_EMPTY = [tiny_input(num_objects=0, seed=1), tiny_input((32, 40), 3, seed=2)]
ALONE = {"TRAINING_EXTENSIONS": [], "MODEL__KD__TERMS": [], "MODEL__KD__QUERIES": "Auxiliary"}
FAMILIES = {
    "deformable": "deformable_detr_R50", "refined": "deformable_detr_refine_R50",
    "two-stage": "deformable_detr_two_stage_R50", "conditional": "conditional_detr_R50", "dab": "dab_detr_R50",
    "dino": "dino_R50_4scale", "adamixer": "adamixer_R50_1x", "detr": "detr_R50",
}  # fmt: skip
RELEASE = {
    "HUNGARIAN_LOGITS__VARIANT": "release", "TARGET_AWARE_FEATURES__VARIANT": "release",
    "QUERY_PRIOR_ASSIGNMENT__VARIANT": "release", "TAP": "neck",
}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {"paper": {}, "release": RELEASE}
PAPER = ("hungarian_logits", "target_aware_features", "query_prior_assignment")


def settings(**changed: Any) -> Any:
    """MODEL.DETRDISTILL with some keys changed, "__" for their dots."""
    cfg = get_cfg()
    add_config(cfg)
    words = [word for key, value in changed.items() for word in (f"MODEL.DETRDISTILL.{key.replace('__', '.')}", value)]
    cfg.merge_from_list(words)
    return cfg.MODEL.DETRDISTILL


def detector(family: str, **options: Any) -> DETR:
    """Of a family or a config of configs/, alone."""
    return configured_detector(FAMILIES.get(family, family), **{**ALONE, **options})


def side_of(who: str, model: DETR) -> Side:
    return Side.of(who, model.classifier.projections[0].in_features, dict(model.named_children()))


def teach(
    student: DETR,
    teacher: DETR,
    *terms: str,
    words: Vocabulary | None = None,
    sight: Sight | None = None,
    **changed: Any,
) -> DETRDistill:
    """Put the extension into a student, made as from a config but for the files."""
    words = words or student.train_vocabulary
    context = BuildContext(words, words, student.criterion, dict(student.named_children()))
    kd = settings(TERMS=list(terms), **changed)
    with fixed_seed(5):
        loaded = (teacher, sight or Sight(), "teacher.yaml")
        extension = DETRDistill(**parts_of(loaded, side_of("student", student), context, kd))
    student.extensions["DETRDistill"] = stir(extension)
    return extension


def losses_of(student: DETR, inputs: list[dict[str, Any]] | None = None, seed: int = 7) -> dict[str, Tensor]:
    """The losses of a step with the same dice each time."""
    with fixed_seed(seed):
        return training_losses(student, inputs or INPUTS)


def taught(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those of the extension, without its prefix."""
    return {name.removeprefix("loss_dd_"): loss for name, loss in losses.items() if name.startswith("loss_dd_")}


def step_of(student: DETR, inputs: list[dict[str, Any]] | None = None, seed: int = 7) -> Step:
    """What the terms of a taught student look at."""
    extension: Any = student.extensions["DETRDistill"]
    seen: list[Step] = []
    hooks = [term.register_forward_pre_hook(lambda _, args: seen.append(args[0])) for term in extension.terms.values()]
    losses_of(student, inputs, seed)
    for hook in hooks:
        hook.remove()
    return seen[0]


def same_weights(student: DETR, teacher: DETR) -> None:
    student.load_state_dict(teacher.state_dict())
