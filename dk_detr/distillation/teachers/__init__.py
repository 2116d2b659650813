"""Teachers: who sees in a region what the student should learn."""

from collections.abc import Callable

from dk_detr.distillation.teachers.clip_crops import CLIPCrops, require_clip_of, teacher_dtype
from dk_detr.distillation.teachers.stored_embeddings import StoredEmbeddings, candidates_of, stored_candidates
from dk_detr.distillation.teachers.teacher import Teacher

TEACHERS: dict[str, Callable[..., Teacher]] = {"CLIPCrops": CLIPCrops, "EmbeddingBank": StoredEmbeddings}
"""By their name in MODEL.TEACHER.NAME; built from a config and the words to detect."""

__all__ = [
    "TEACHERS", "CLIPCrops", "StoredEmbeddings", "Teacher", "candidates_of", "require_clip_of", "stored_candidates",
    "teacher_dtype",
]  # fmt: skip
