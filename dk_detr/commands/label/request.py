"""What makes labels these labels: weights, words, thresholds, images. Only the same request goes on with them."""

import hashlib
import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dk_detr.data.bank.fingerprints import identity_of, unequal
from dk_detr.detector import Detector
from dk_detr.detector.thresholds import Thresholds
from dk_detr.engine.setup import with_values

Request = dict[str, Any]
PLACES = (  # where files lie and what computes: they change no label
    "MODEL.WEIGHTS", "MODEL.DEVICE", "OUTPUT_DIR", "MODEL.VOCABULARY.TEST", "MODEL.VOCABULARY.TRAIN",
    "MODEL.CLIP.ARCHITECTURE", "MODEL.CLIP.WEIGHTS", "MODEL.CLIP.IMAGE_WEIGHTS",
)  # fmt: skip
SHOWN = 80  # characters, about, of a value in an error


def request_of(
    detector: Detector, thresholds: Thresholds, words_per_box: str, names: Sequence[str], root: Path,
    vocabulary_file: str,
) -> Request:  # fmt: skip
    """As JSON holds it.

    Args:
        names: of the images, as the annotations will call them. root: the folder that they are below.
        vocabulary_file: that the words are from, "" for none.
    """
    settings = with_values(detector.cfg, dict.fromkeys(PLACES, "")).dump()
    return {
        "weights": identity_of(detector.cfg.MODEL.WEIGHTS),
        "classes": list(detector.classes),
        "vocabulary": identity_of(vocabulary_file) if vocabulary_file else None,
        "threshold": thresholds.default,
        "thresholds": dict(sorted(thresholds.of_words.items())),
        "words_per_box": words_per_box,
        "images": {
            "number": len(names), "first": names[0], "last": names[-1], "sha256": _sha256(json.dumps(names)),
            "below": str(root),
        },
        "config": _sha256(settings),
    }  # fmt: skip


def refuse_another(there: Request, here: Request, where: Path) -> None:
    """Raises ValueError that names what differs, where it is not the same request."""
    different = [f"{key} is {_shown(old)} there, {_shown(new)} here" for key, old, new in unequal(there, here)]
    if len(different) > 1:
        different = [line for line in different if not line.startswith("images.sha256")]  # the others say more
    if different:
        raise ValueError(
            f"{where} belongs to another labelling: {'; '.join(different)}. Name another --output, or delete it."
        )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _shown(value: Any) -> str:
    if isinstance(value, dict) and value.keys() == {"name", "sha256"}:
        return f"{value['name']} (sha256 {value['sha256'][:12]})"
    if isinstance(value, str) and len(value) > SHOWN:  # the ends of paths differ
        value = f"…{value[-SHOWN:]}"
    return "absent" if value is None else textwrap.shorten(json.dumps(value, ensure_ascii=False), SHOWN + 5)
