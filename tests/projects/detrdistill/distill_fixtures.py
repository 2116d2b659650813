"""Tiny students and teachers of every family, and the steps that they make."""

from typing import Any

from detectron2.config import get_cfg
from torch import Tensor

from dk_detr.meta_arch import DETR
from dk_detr.structures import Vocabulary
from projects.DETRDistill.detrdistill import TERMS, DETRDistill
from projects.DETRDistill.detrdistill.config import add_config
from projects.DETRDistill.detrdistill.points import ForStudent
from projects.DETRDistill.detrdistill.side import Side
from projects.DETRDistill.detrdistill.step import Step
from projects.DETRDistill.detrdistill.teacher import TeacherDetector, words_for
from projects.DETRDistill.detrdistill.terms import Term
from tests.model_fixtures import configured_detector, fixed_seed, stir, tiny_input, training_losses

INPUTS = [tiny_input(seed=1), tiny_input((32, 40), 3, seed=2)]
ONE_EMPTY = [tiny_input(num_objects=0, seed=1), tiny_input((32, 40), 3, seed=2)]
ALONE = {"TRAINING_EXTENSIONS": [], "MODEL__KD__TERMS": [], "MODEL__KD__QUERIES": "Auxiliary"}
FAMILIES = {
    "deformable": "deformable_detr_R50", "refined": "deformable_detr_refine_R50",
    "two-stage": "deformable_detr_two_stage_R50", "conditional": "conditional_detr_R50", "dab": "dab_detr_R50",
    "dino": "dino_R50_4scale", "adamixer": "adamixer_R50_1x", "detr": "detr_R50",
}  # fmt: skip
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
    network = {name: getattr(model, name) for name in ("neck", "queries", "decoder", "classifier")}
    return Side.of(who, model.classifier.projections[0].in_features, network)


def teach(student: DETR, teacher: DETR, *terms: str, words: Vocabulary | None = None, **changed: Any) -> DETRDistill:
    """Put the extension into a student."""
    kd, ours = settings(**changed), side_of("student", student)
    guest = TeacherDetector(teacher, words_for(teacher, student.classifier, words or student.train_vocabulary))
    with fixed_seed(5):
        parts: dict[str, Term] = {name: TERMS[name].build(kd, ours, guest.side) for name in terms}
        reference = "student" if kd.VARIANT == "release" else kd.QUERY_PRIOR_ASSIGNMENT.REFERENCE
        asked = any(part.groups for part in parts.values())
        queries = ForStudent(ours, guest.side, reference) if asked else None
        extension = DETRDistill(guest, parts, ours.depth, student.criterion, queries)
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
