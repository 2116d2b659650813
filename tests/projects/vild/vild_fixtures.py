"""Configs of two-stage ViLD shrunk to seconds."""

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from torch import Tensor

from dk_detr.engine import setup_cfg
from tests.model_fixtures import fixed_seed
from tests.run_fixtures import REPOSITORY, SIDE, WIDTH, World, outline

CONFIGS = REPOSITORY / "projects" / "ViLD" / "configs"
NAMES = ("ViLD_text", "ViLD_image", "ViLD", "ViLD_ensemble")
TAUGHT = NAMES[1:]
NUM_DETECTIONS = 10
SHRUNK: dict[str, Any] = {
    "MODEL__FPN__OUT_CHANNELS": 8,
    "MODEL__RPN__PRE_NMS_TOPK_TRAIN": 40,
    "MODEL__RPN__POST_NMS_TOPK_TRAIN": 20,
    "MODEL__RPN__PRE_NMS_TOPK_TEST": 40,
    "MODEL__RPN__POST_NMS_TOPK_TEST": 20,
    "MODEL__ROI_HEADS__BATCH_SIZE_PER_IMAGE": 8,
    "MODEL__ROI_BOX_HEAD__CONV_DIM": 8,
    "MODEL__ROI_BOX_HEAD__FC_DIM": 16,
    "MODEL__ROI_MASK_HEAD__CONV_DIM": 8,
    "MODEL__KD__NUM_SLOTS": 4,
    "MODEL__TEACHER__NAME": "CLIPCrops",
    "TEST__DETECTIONS_PER_IMAGE": NUM_DETECTIONS,
    "SOLVER__BASE_LR": 0.001,  # the published one is for 256 images
}


def mini(name: str) -> str:
    """A config for the mini world."""
    return str(CONFIGS / "mini" / f"{name}.yaml")


def shrunk_cfg(world: World, config: str, **more: Any) -> CfgNode:
    """A config, shrunk."""
    return setup_cfg(config, world.options(**{**SHRUNK, **more}))


def tiny_vild(world: World, name: str, **more: Any) -> Any:
    """An untrained detector in evaluation mode, the same on every call, sure of what it says of places."""
    with fixed_seed():
        detector = build_model(shrunk_cfg(world, mini(name), **more)).eval()
        for parameter in detector.proposal_generator.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
    return detector


def sample(num_objects: int = 2, size: tuple[int, int] = (SIDE, SIDE), seed: int = 0) -> dict[str, Any]:
    """One image with objects of the base words and their masks, as the mapper gives it."""
    dice = torch.Generator().manual_seed(seed)
    h, w = size
    corner = torch.rand(num_objects, 2, generator=dice) * 0.5
    side = torch.rand(num_objects, 2, generator=dice) * 0.3 + 0.2
    boxes = torch.cat([corner, corner + side], 1) * torch.tensor([w, h, w, h])
    xywh = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1).tolist()
    objects = Instances(size, gt_boxes=Boxes(boxes), gt_classes=torch.randint(2, (num_objects,), generator=dice))
    if num_objects:
        objects.gt_masks = PolygonMasks([[torch.tensor(outline(box)).double().numpy()] for box in xywh])
    image = torch.randint(256, (3, h, w), generator=dice).float()
    return {"image": image, "height": h, "width": w, "file_name": f"{seed}.jpg", "instances": objects}


def stored_regions(boxes: list[list[float]], embeddings: Tensor | None = None, size: int = SIDE) -> Instances:
    """What a bank says of an image: boxes xyxy in pixels, the best first, and an embedding of each."""
    rows = torch.tensor(boxes).reshape(-1, 4)
    embeddings = torch.eye(WIDTH)[: len(rows)] if embeddings is None else embeddings
    logits = -torch.arange(float(len(rows)))
    return Instances((size, size), proposal_boxes=Boxes(rows), objectness_logits=logits, embeddings=embeddings.half())


def training_losses(detector: Any, inputs: list[dict[str, Any]], seed: int = 0, **told: Any) -> dict[str, Tensor]:
    """The losses of one step, the sampling of proposals always the same. told: of the batch, to a part of it."""
    with EventStorage(), fixed_seed(seed):
        losses: dict[str, Tensor] = detector.train()(inputs, **told)
        return losses
