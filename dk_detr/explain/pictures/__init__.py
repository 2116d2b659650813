"""Pictures of explanations: a sheet for each detection, one of what the teacher says, one of the relations."""

from dk_detr.explain.pictures.detection_sheet import draw_detection
from dk_detr.explain.pictures.teaching_sheets import draw_regions, draw_relations

__all__ = ["draw_detection", "draw_regions", "draw_relations"]
