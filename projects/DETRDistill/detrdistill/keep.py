"""SOLVER.KEEP "distillation": a detector of any words, as it was before fine-tuning, teaches itself what it knew."""

from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode

from dk_detr.engine.keep import Keeper
from projects.DETRDistill.detrdistill.teacher import SELF

EXTENSION = "DETRDistill"


class StartTeaches(Keeper):
    """The teacher is the detector of this config with MODEL.WEIGHTS. Where MODEL.TRAINING_EXTENSIONS names the
    extension already, its terms are those of the config; else they are what keeps words that have no labels now: what
    the start's queries say in the space of the text, and what it takes for objects."""

    @classmethod
    def settings(cls, cfg: CfgNode) -> Mapping[str, Any]:
        """See `Keeper`."""
        teacher, extensions = cfg.MODEL.TEACHER_DETECTOR, list(cfg.MODEL.TRAINING_EXTENSIONS)
        values: dict[str, Any] = {
            "MODEL.TEACHER_DETECTOR.CONFIG": teacher.CONFIG or SELF,
            "MODEL.TEACHER_DETECTOR.WEIGHTS": teacher.WEIGHTS or cfg.MODEL.WEIGHTS,
        }
        if EXTENSION in extensions:
            return values
        return {
            **values,
            "MODEL.TRAINING_EXTENSIONS": [*extensions, EXTENSION],
            "MODEL.DETRDISTILL.TERMS": ["query_embeddings"],
            "MODEL.DETRDISTILL.PSEUDO_OBJECTS": 0.5,
        }

    @classmethod
    def refuse_bad_combinations(cls, cfg: CfgNode) -> None:
        """See `Keeper`."""
        if cfg.MODEL.META_ARCHITECTURE != "DETR":
            raise ValueError(
                'SOLVER.KEEP names "distillation", for which a "DETR" teaches itself, and MODEL.META_ARCHITECTURE is '
                f'"{cfg.MODEL.META_ARCHITECTURE}": take it out.'
            )
