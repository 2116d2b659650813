"""A tiny world that can be calibrated: its words are what its CLIP sees in boxes of their colour."""

from pathlib import Path

import torch

from dk_detr.language import Clip, load_clip, save_vocabulary
from dk_detr.structures import Vocabulary
from tests.run_fixtures import COLOURS, NAMES, World, make_world


def make_calibrated_world(root: Path) -> World:
    """Write one, with `clip.pt` beside its files."""
    made = make_world(root)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        clip = load_clip("open_clip", str(root / "clip.json"), "")
    torch.save(clip.model.state_dict(), root / "clip.pt")
    save_words(clip_of(made), str(root / "words.npz"))
    return made


def clip_of(world: World) -> Clip:
    return load_clip("open_clip", str(world.root / "clip.json"), str(world.root / "clip.pt"))


def save_words(clip: Clip, path: str) -> None:
    """Names, with what a CLIP sees in their colours."""
    pixels = torch.tensor(COLOURS).float().view(-1, 3, 1, 1) / 255
    rows = clip.encode_image(pixels.expand(-1, -1, clip.image_size, clip.image_size))
    novel = torch.tensor([name == "blue_box" for name in NAMES])
    save_vocabulary(Vocabulary(NAMES, rows, novel, {"probe": clip.probe}), path)
