"""Measure a CLIP on the ground-truth boxes of an LVIS-format split: zero-shot accuracy, and how its embeddings lie."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dk_detr.language.clip import Clip
from dk_detr.language.vocabularies import encode_names
from dk_detr.mini_world.contrastive.pairs import look_at

CONTEXTS = {"1x": (1.0,), "1.5x": (1.5,), "1x + 1.5x": (1.0, 1.5)}
GROUPS = ("base", "novel, new combination", "novel, unseen concept")


@torch.no_grad()
def measure(clip: Clip, root: Path, split: str = "val", prompt: str = "vild") -> dict[str, Any]:
    """Classify every ground-truth box of a mini world's split by its most similar name among all categories.

    Returns:
        accuracy: context (how much larger than its box a crop is; embeddings of two are added) -> group -> share of
            boxes that are right.
        cosine: means over two different names ("text-text"), a crop and a wrong or its right name ("image-wrong text",
            "image-right text"), and two crops ("image-image").
    """
    data = json.loads((root / f"annotations/mini_lvis_{split}.json").read_text())
    column = {category["id"]: index for index, category in enumerate(data["categories"])}
    labels = torch.tensor([column[annotation["category_id"]] for annotation in data["annotations"]])
    texts = encode_names([category["name"] for category in data["categories"]], clip, prompt)
    images = {scale: clip.encode_image(_crops(data, root, scale, clip.image_size)) for scale in (1.0, 1.5)}
    group = torch.tensor([_group(category) for category in data["categories"]])[labels]
    accuracy = {}
    for context, scales in CONTEXTS.items():
        embedding = torch.stack([images[scale] for scale in scales]).sum(0)
        right = ((embedding @ texts.T).argmax(dim=1) == labels).float()
        accuracy[context] = {name: right[group == number].mean().item() for number, name in enumerate(GROUPS)}
    return {"split": split, "prompt": prompt, "accuracy": accuracy, "cosine": _cosines(images[1.0], texts, labels)}


def _group(category: dict[str, Any]) -> int:
    """The index in GROUPS of a category record."""
    if category["frequency"] != "r":
        return 0
    return 2 if category.get("unseen_concept") else 1


def _crops(data: dict[str, Any], root: Path, scale: float, side: int) -> Tensor:
    """The content of every annotated box enlarged by `scale`, warped to (N, 3, side, side) in [0, 1]."""
    files = {image["id"]: root / image["file_name"] for image in data["images"]}
    ids = [annotation["image_id"] for annotation in data["annotations"]]
    pictures = {number: _read_picture(files[number]) for number in sorted(set(ids))}
    size = torch.tensor([pictures[number].shape[:0:-1] for number in ids])
    x, y, width, height = torch.tensor([annotation["bbox"] for annotation in data["annotations"]]).unbind(1)
    centre = torch.stack([2 * x + width, 2 * y + height], dim=1) / size - 1
    extent = torch.stack([width, height], dim=1) * scale / size
    windows = [
        look_at(pictures[number][None], centre[index, None], extent[index, None], side)
        for index, number in enumerate(ids)
    ]
    return torch.cat(windows)


def _read_picture(path: Path) -> Tensor:
    """(3, H, W) RGB in [0, 1]."""
    with Image.open(path) as picture:
        return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).float() / 255


def _cosines(images: Tensor, texts: Tensor, labels: Tensor) -> dict[str, float]:
    text_text, image_text, image_image = texts @ texts.T, images @ texts.T, images @ images.T
    right = torch.zeros_like(image_text, dtype=torch.bool).scatter_(1, labels[:, None], True)
    return {
        "text-text": _off_diagonal(text_text).mean().item(),
        "text-text, largest": _off_diagonal(text_text).max().item(),
        "image-wrong text": image_text[~right].mean().item(),
        "image-right text": image_text[right].mean().item(),
        "image-image": _off_diagonal(image_image).mean().item(),
    }


def _off_diagonal(square: Tensor) -> Tensor:
    return square[~torch.eye(len(square), dtype=torch.bool)]


def report(metrics: dict[str, Any]) -> str:
    """The metrics as a small table for the terminal."""
    lines = [f'zero-shot accuracy on ground-truth boxes of {metrics["split"]}, prompt "{metrics["prompt"]}":']
    lines.append(f"  {'context':<12}" + "".join(f"{name:>26}" for name in GROUPS))
    for context, row in metrics["accuracy"].items():
        lines.append(f"  {context:<12}" + "".join(f"{row[name]:>26.3f}" for name in GROUPS))
    lines.append("mean cosines: " + ", ".join(f"{name} {value:.2f}" for name, value in metrics["cosine"].items()))
    return "\n".join(lines)
