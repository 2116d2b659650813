"""The file of a calibration: what tools/calibrate.py writes, and MODEL.CALIBRATION names."""

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from dk_detr.distillation.teachers import LIVE
from dk_detr.language import require_same_probe
from dk_detr.structures import Calibration, Vocabulary
from dk_detr.utils import read_json

FORMAT, VERSION = "dk_detr calibration", 1
PAPER = Calibration()
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredCalibration:
    """What a file says.

    Attributes:
        path: of the file. classifier: for words. semantic: for the crops of SKD.
        probe: of the teacher, see `Clip`; "" where it is not known. width: of its embeddings.
        teacher: how it saw the boxes, a name of MODEL.TEACHER.NAME. crop_scales: at which scales.
    """

    path: str
    classifier: Calibration
    semantic: Calibration
    probe: str
    width: int
    teacher: str
    crop_scales: tuple[float, ...]

    def require_teacher_of(self, vocabulary: Vocabulary) -> None:
        """Raises ValueError for words of another CLIP."""
        remedy = "Calibrate to the CLIP of these words: tools/calibrate.py."
        whose = f"the calibration {self.path} (MODEL.CALIBRATION)"
        if self.width != vocabulary.width:
            raise ValueError(
                f"MODEL.VOCABULARY ({vocabulary.describe()}) has width {vocabulary.width}, and {whose} is of a CLIP of "
                f"width {self.width}. {remedy}"
            )
        require_same_probe(vocabulary, self.probe, whose, remedy)


def calibration_from_config(cfg: CfgNode) -> StoredCalibration | None:
    """The file of MODEL.CALIBRATION, read; None where it is "".

    Raises: FileNotFoundError; ValueError for a file that is none, and for other keys that give the same numbers.
    """
    path, classifier, semantic = cfg.MODEL.CALIBRATION, cfg.MODEL.DETR.CLASSIFIER, cfg.MODEL.KD.SEMANTIC
    if not path:
        return None
    defaults = {
        "MODEL.DETR.CLASSIFIER.TEMPERATURE": (classifier.TEMPERATURE, PAPER.temperature),
        "MODEL.DETR.CLASSIFIER.LOGIT_BIAS": (classifier.LOGIT_BIAS, None),
        "MODEL.KD.SEMANTIC.TEMPERATURE": (semantic.TEMPERATURE, PAPER.temperature),
        "MODEL.KD.SEMANTIC.OFFSET": (semantic.OFFSET, PAPER.offset),
    }
    for key, (given, default) in defaults.items():
        if given != default:
            raise ValueError(
                f'{key} is {given}, but MODEL.CALIBRATION "{path}" gives temperature and offset: leave the former at '
                f'{default}, or set MODEL.CALIBRATION "".'
            )
    if classifier.NAME != "CosineText":
        raise ValueError(
            f'MODEL.CALIBRATION "{path}" is for the sigmoid of MODEL.DETR.CLASSIFIER.NAME "CosineText", not for '
            f'"{classifier.NAME}": choose "CosineText", or set MODEL.CALIBRATION "".'
        )
    return read_calibration(path)


def warn_of_other_crops(calibration: StoredCalibration, cfg: CfgNode) -> None:
    """A warning where the teacher sees regions in another way, or at other scales, than it was calibrated with."""
    name, here = cfg.MODEL.TEACHER.NAME, tuple(cfg.MODEL.TEACHER.CROP_SCALES)
    if name in LIVE and (name, here) != (calibration.teacher, calibration.crop_scales):
        logger.warning(
            f"{calibration.path} (MODEL.CALIBRATION) was fitted to {calibration.teacher} at scales "
            f'{list(calibration.crop_scales)}; MODEL.TEACHER.NAME is "{name}", CROP_SCALES {list(here)}.'
        )


def read_calibration(path: str) -> StoredCalibration:
    """Read and check. Raises FileNotFoundError; ValueError for what is no calibration, or one of another version."""
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"There is no calibration (MODEL.CALIBRATION) {path}: make it by tools/calibrate.py, with the config of "
            "the training."
        )
    content = read_json(path, "calibration (MODEL.CALIBRATION)")
    if not isinstance(content, Mapping) or content.get("format") != FORMAT:
        raise ValueError(f"{path} (MODEL.CALIBRATION) is no calibration: make one by tools/calibrate.py.")
    if content.get("version") != VERSION:
        raise ValueError(
            f"{path} (MODEL.CALIBRATION) is a calibration of version {content.get('version')}, wanted {VERSION}: make "
            "it anew by tools/calibrate.py."
        )
    try:
        teacher = content["teacher"]
        return StoredCalibration(
            path=path,
            classifier=_sigmoid(content["classifier"]),
            semantic=_sigmoid(content["semantic"]),
            probe=_probe(teacher["probe"]),
            width=int(teacher["width"]),
            teacher=str(teacher.get("name", "CLIPCrops")),
            crop_scales=tuple(map(float, teacher["crop_scales"])),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        reason = f"there is no {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
        raise ValueError(f"{path} (MODEL.CALIBRATION) is a damaged calibration ({reason}).") from error


def _sigmoid(saved: Mapping[str, Any]) -> Calibration:
    return Calibration(saved["temperature"], saved["offset"])


def _probe(saved: str) -> str:
    if saved and not all(map(math.isfinite, json.loads(saved))):
        raise ValueError("its probe is no list of finite numbers")
    return saved
