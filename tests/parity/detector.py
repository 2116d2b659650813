"""Our side of a comparison: the detector that a conversion asks for, with its weights, and what it says."""

import torch
from detectron2.modeling import build_model
from detectron2.structures import ImageList
from torch import Tensor

from dk_detr.convert import Conversion
from dk_detr.engine import setup_cfg
from dk_detr.meta_arch import DETR
from dk_detr.structures import DETECTION, QuerySet
from tests.run_fixtures import REPOSITORY


def detector_of(conversion: Conversion, **more: object) -> DETR:
    """Built from the config that the conversion names, with the settings that it finds; `more` has "__" for dots."""
    settings = {"MODEL.TRAINING_EXTENSIONS": [], **conversion.settings, "MODEL.DEVICE": "cpu"}
    settings |= {key.replace("__", "."): value for key, value in more.items()}
    words = [str(word) for pair in settings.items() for word in pair]
    detector = build_model(setup_cfg(str(REPOSITORY / conversion.config), words)).eval()
    detector.load_state_dict(conversion.state)
    return detector


@torch.no_grad()
def answer_of(detector: DETR, image: Tensor) -> tuple[Tensor, Tensor]:
    """(D, Q, K) logits and (D, Q, 4) boxes for one normalised image (3, h, w)."""
    images = ImageList.from_tensors([image])
    initial = detector.queries(memory := detector.encoder(detector.extract_features(images)))
    trace = detector.decoder(QuerySet((initial.group,)), memory)
    found = detector.heads(trace, detector.text)[DETECTION]
    return found.logits[:, 0], found.boxes[:, 0]
