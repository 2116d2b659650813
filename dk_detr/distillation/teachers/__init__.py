"""Teachers: who sees in a region what the student should learn."""

from collections.abc import Callable

from detectron2.config import CfgNode

from dk_detr.distillation.teachers.clip_crops import CLIPCrops, require_clip_of, teacher_dtype
from dk_detr.distillation.teachers.clip_regions import CLIPRegions
from dk_detr.distillation.teachers.stored_embeddings import StoredEmbeddings, candidates_of, stored_candidates
from dk_detr.distillation.teachers.teacher import Teacher
from dk_detr.structures import Vocabulary

TEACHERS: dict[str, Callable[..., Teacher]] = {
    "CLIPCrops": CLIPCrops,
    "CLIPRegions": CLIPRegions,
    "EmbeddingBank": StoredEmbeddings,
}
"""By their name in MODEL.TEACHER.NAME; built from a config and the words to detect."""

LIVE: dict[str, type[CLIPCrops]] = {"CLIPCrops": CLIPCrops, "CLIPRegions": CLIPRegions}
"""Those that look at images while others train."""


def live_teacher(cfg: CfgNode, words: Vocabulary) -> CLIPCrops:
    """What looks at images where a config asks CLIP: that of MODEL.TEACHER.NAME, or, since a bank holds only what it
    saw, "CLIPCrops". `words`: to detect."""
    return LIVE.get(cfg.MODEL.TEACHER.NAME, CLIPCrops)(cfg, words)


__all__ = [
    "LIVE", "TEACHERS", "CLIPCrops", "CLIPRegions", "StoredEmbeddings", "Teacher", "candidates_of", "live_teacher",
    "require_clip_of", "stored_candidates", "teacher_dtype",
]  # fmt: skip
