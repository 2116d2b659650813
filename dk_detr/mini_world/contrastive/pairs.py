"""Image-caption pairs: crops with names, drawn as batches of windows and sentences.

A name becomes a sentence in a random prompt, and sometimes loses adjectives, so that "red star" and "star" come to mean
something too.

A batch holds one crop for each different name. The contrastive loss takes every other caption of the batch for wrong,
which an equal one would not be; with each name once there is nothing to mask.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dk_detr.language.prompts import prompt_texts

READ_IN = ("name", "single", "vild")  # prompts of `prompt_texts`
# The share of captions that may lose adjectives, and how probably each adjective of those goes.
SHORTENED, ADJECTIVE_DROPOUT = 0.4, 0.2
# Least side of the random window that is cut from a crop, relative to the crop's.
SMALLEST_WINDOW = 0.8


class Pairs:
    """Crops with their names, from a folder with crops.npy (N, S, S, 3) uint8 RGB and captions.json, N names in words.

    Attributes:
        crops: (N, 3, S, S) uint8.
        by_name: name -> indices of its crops; names in alphabetical order.
    """

    def __init__(self, folder: Path) -> None:
        crops_file, captions_file = folder / "crops.npy", folder / "captions.json"
        if not crops_file.is_file() or not captions_file.is_file():
            raise FileNotFoundError(f"{folder} lacks crops.npy or captions.json; make them: tools/make_mini_lvis.py.")
        self.crops = torch.from_numpy(np.load(crops_file)).permute(0, 3, 1, 2)
        names = json.loads(captions_file.read_text())
        if len(names) != len(self.crops):
            raise ValueError(f"{folder} has {len(self.crops)} crops, but {len(names)} captions; make them again.")
        self.by_name: dict[str, list[int]] = defaultdict(list)
        for index in sorted(range(len(names)), key=names.__getitem__):
            self.by_name[names[index]].append(index)

    def draw(self, seed: int, iteration: int, side: int) -> tuple[Tensor, list[str]]:
        """One crop and one sentence for each name, a function of the arguments, so that a run can be resumed.

        Returns:
            pixels (B, 3, side, side) in [0, 1] and B sentences.
        """
        rng = np.random.default_rng([seed, iteration])
        chosen = [int(rng.choice(indices)) for indices in self.by_name.values()]
        sentences = [_in_a_prompt(phrase, rng) for phrase in shorten(list(self.by_name), rng)]
        return _random_windows(self.crops[chosen], side, rng), sentences


def shorten(names: Sequence[str], rng: np.random.Generator) -> list[str]:
    """The names, some of them without some of their adjectives, no two alike."""
    taken, phrases = set(names), []
    for name in names:
        *adjectives, noun = name.split()
        kept = [word for word in adjectives if rng.random() >= ADJECTIVE_DROPOUT]
        shorter = " ".join([*kept, noun])
        phrases.append(shorter if rng.random() < SHORTENED and shorter not in taken else name)
        taken.add(phrases[-1])
    return phrases


def _in_a_prompt(phrase: str, rng: np.random.Generator) -> str:
    """The phrase in a random sentence of a random sort of prompt."""
    sentences = prompt_texts(phrase, READ_IN[rng.integers(len(READ_IN))])
    return sentences[rng.integers(len(sentences))]


def _random_windows(crops: Tensor, side: int, rng: np.random.Generator) -> Tensor:
    """A random square window of each crop (B, 3, S, S) uint8, half of them mirrored: (B, 3, side, side) in [0, 1]."""
    size = rng.uniform(SMALLEST_WINDOW, 1, size=(len(crops), 1))
    centre = rng.uniform(-1, 1, size=(len(crops), 2)) * (1 - size)
    mirror = rng.choice((-1.0, 1.0), size=len(crops))
    extent = size * np.stack([mirror, np.ones(len(crops))], axis=1)
    return look_at(crops.float() / 255, torch.from_numpy(centre), torch.from_numpy(extent), side)


def look_at(pictures: Tensor, centre: Tensor, extent: Tensor, side: int) -> Tensor:
    """Resample one window of each picture (B, 3, H, W), bilinear, edges continued: (B, 3, side, side).

    Args:
        centre, extent: (B, 2) as (x, y), in units in which a picture reaches from -1 to 1: an extent of 1 is all of
            it, a negative one mirrors.
    """
    transform = torch.zeros(len(pictures), 2, 3)
    transform[:, 0, 0], transform[:, 1, 1] = extent[:, 0], extent[:, 1]
    transform[:, :, 2] = centre
    grid = F.affine_grid(transform, [len(pictures), 3, side, side], align_corners=False)
    return F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
