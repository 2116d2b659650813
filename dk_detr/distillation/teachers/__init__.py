"""Teachers: who sees in a region what the student should learn."""

from dk_detr.distillation.teachers.clip_crops import CLIPCrops
from dk_detr.distillation.teachers.stored_embeddings import StoredEmbeddings, candidates_of, stored_candidates
from dk_detr.distillation.teachers.teacher import Teacher

__all__ = ["CLIPCrops", "StoredEmbeddings", "Teacher", "candidates_of", "stored_candidates"]
