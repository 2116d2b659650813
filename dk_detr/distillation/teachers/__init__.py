"""Teachers: who sees in a region what the student should learn."""

from collections.abc import Callable

from dk_detr.distillation.teachers.clip_crops import CLIPCrops, require_clip_of, teacher_dtype
from dk_detr.distillation.teachers.clip_regions import CLIPRegions
from dk_detr.distillation.teachers.stored_embeddings import StoredEmbeddings, candidates_of, stored_candidates
from dk_detr.distillation.teachers.teacher import Teacher

TEACHERS: dict[str, Callable[..., Teacher]] = {
    "CLIPCrops": CLIPCrops,
    "CLIPRegions": CLIPRegions,
    "EmbeddingBank": StoredEmbeddings,
}
"""By their name in MODEL.TEACHER.NAME; built from a config and the words to detect."""

LIVE: dict[str, type[CLIPCrops]] = {"CLIPCrops": CLIPCrops, "CLIPRegions": CLIPRegions}
"""Those that look at images while others train."""

__all__ = [
    "LIVE", "TEACHERS", "CLIPCrops", "CLIPRegions", "StoredEmbeddings", "Teacher", "candidates_of", "require_clip_of",
    "stored_candidates", "teacher_dtype",
]  # fmt: skip
