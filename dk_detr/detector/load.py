"""Loading a detector from its weights alone, or from a config and weights, in whatever folder one is."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from dk_detr.detector.detector import Detector
from dk_detr.engine.fit import needs_weights
from dk_detr.engine.predictor import with_words_of_training
from dk_detr.engine.setup import checkpoint_cfg, setup_cfg, with_values

CLIP_FILES = ("MODEL.CLIP.ARCHITECTURE", "MODEL.CLIP.WEIGHTS", "MODEL.CLIP.IMAGE_WEIGHTS")


def load(
    source: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None = None,
    device: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Detector:
    """A detector, ready for `predict`.

        detector = dk_detr.load("output/dk_detr_R50/model_final.pth")
        detector.set_classes(["headphone", "paper cup"])
        print(detector.predict("photo.jpg"))

    Args:
        source: weights of a training, which say their config and words. Or a config: a file, or the name of one that
            comes with the package ("dk_detr_R50", "mini/dk_detr"; `tools/list_configs.py` lists them), with `weights`.
        weights: for a config; a file of a training or of `tools/convert_checkpoint.py`.
        device: "cuda", "cuda:1", "cpu"; None for the config's, or the CPU where that is not there.
        options: config keys with other values: {"TEST.DETECTIONS_PER_IMAGE": 50}.

    Files that the config names relative to a folder (MODEL.CLIP) are looked for here, and in the folders above the
    weights. Vocabulary files are not needed: weights say the words of their training.

    Raises: FileNotFoundError; ValueError for weights that say no config, or do not fit it, and for wrong options.
    """
    opts = [str(word) for pair in (options or {}).items() for word in pair]
    opts += [] if device is None else ["MODEL.DEVICE", device]
    path = os.fspath(source)
    if path.endswith((".pth", ".pt", ".pkl", ".safetensors")):
        if weights is not None:
            raise ValueError(f"{path} are weights, and so are {weights}: name one, or a config and weights.")
        cfg = checkpoint_cfg(path, opts)
    else:
        cfg = setup_cfg(path, [*opts, *([] if weights is None else ["MODEL.WEIGHTS", os.fspath(weights)])])
        if weights is None and needs_weights(cfg):
            raise ValueError(f'{path} is a config: name weights, too, dk_detr.load("{path}", "some.pth").')
    if cfg.MODEL.WEIGHTS:
        cfg = with_words_of_training(_found(cfg, Path(cfg.MODEL.WEIGHTS)))
    return Detector(cfg)


def _found(cfg: CfgNode, weights: Path) -> CfgNode:
    """With the files of CLIP that are not here, but below a folder above the weights."""
    folders = weights.resolve().parents
    found = {}
    for key in CLIP_FILES:
        name = _value(cfg, key)
        near = (folder / name for folder in folders if (folder / name).is_file())
        if os.path.dirname(name) and not os.path.exists(name) and (file := next(near, None)):
            found[key] = str(file)
    return with_values(cfg, found) if found else cfg


def _value(cfg: CfgNode, key: str) -> str:
    node: Any = cfg
    for part in key.split("."):
        node = node[part]
    return str(node)
