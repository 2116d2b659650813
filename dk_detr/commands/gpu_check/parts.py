"""The parts of the check, in their order, and how long each may take on a GPU."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dk_detr.commands.gpu_check import correct, fast, useful
from dk_detr.commands.gpu_check.finding import Settings, Tell

Work = Callable[[Settings, Tell], None]


@dataclass(frozen=True)
class Part:
    """Something to find out.

    Attributes:
        group: "correct", "fast" or "useful". work: finds it out. seconds: it is ended after that many.
    """

    group: str
    work: Work
    seconds: int


PARTS = {
    "attention": Part("correct", correct.attention, 60),
    "tests": Part("correct", correct.tests, 60),
    "teacher": Part("correct", correct.teacher, 30),
    "training": Part("correct", correct.training, 60),
    "configs": Part("correct", correct.configs, 90),
    "workers": Part("correct", correct.workers, 60),
    "compiled": Part("correct", correct.compiled, 90),
    "attention-speed": Part("fast", fast.attention, 60),
    "inference": Part("fast", fast.inference, 75),
    "training-step": Part("fast", fast.training_step, 75),
    "distillation": Part("fast", fast.distillation, 90),
    "clip": Part("fast", fast.clip, 40),
    "attention-compiled": Part("fast", fast.attention_compiled, 90),
    "inference-compiled": Part("fast", fast.inference_compiled, 120),
    "photos": Part("useful", useful.photos, 180),
    "mini-world": Part("useful", useful.mini_world, 400),
}
GROUPS = ("correct", "fast", "useful")


def chosen(names: Sequence[str]) -> list[str]:
    """Names of parts from names of parts and groups, in their order; all for none. Raises ValueError for another."""
    unknown = [name for name in names if name not in PARTS and name not in GROUPS]
    if unknown:
        raise ValueError(f'--parts names "{unknown[0]}"; choose from {", ".join([*GROUPS, *PARTS])}.')
    return [name for name, part in PARTS.items() if not names or name in names or part.group in names]
