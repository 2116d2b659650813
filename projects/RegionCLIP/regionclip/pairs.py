"""Pairs of an image and its captions: what the pretraining sees.

They come from a captions file of COCO's kind, or from shards: tar files in which NAME.jpg stands beside NAME.txt, as
webdataset and img2dataset write them. Both can be read from any place on, so that a run resumes exactly.
"""

import glob
import io
import json
import os
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import detectron2.data.transforms as T
import numpy as np
from detectron2.config import CfgNode
from detectron2.data.samplers import TrainingSampler
from PIL import Image
from tqdm import tqdm

from dk_detr.data import TrainStream, batch_size_per_worker, require_images
from dk_detr.data.images import UnreadableImage, pixels_of, read_image, to_tensor
from dk_detr.data.resizing import shortest_edge
from dk_detr.utils import read_json

Record = dict[str, Any]
IMAGES, TEXTS = (".jpg", ".jpeg", ".png", ".webp"), (".txt", ".json")
KEY = "MODEL.REGIONCLIP.PRETRAINING"


def build_pair_stream(cfg: CfgNode, model: Any, seed: int) -> TrainStream:
    """The stream "ImageText". Raises ValueError, FileNotFoundError for what is no pairs."""
    records = pairs_from_config(cfg)
    sampler = TrainingSampler(len(records), seed=seed)
    workers = cfg.DATALOADER.NUM_WORKERS
    return TrainStream(records, PairMapper(cfg), sampler, batch_size_per_worker(cfg), seed, workers)


def pairs_from_config(cfg: CfgNode) -> list[Record]:
    """Of MODEL.REGIONCLIP.PRETRAINING, with progress where it takes long."""
    own = cfg.MODEL.REGIONCLIP.PRETRAINING
    if bool(own.CAPTIONS) == bool(own.SHARDS):
        both = f'"{own.CAPTIONS}" and "{own.SHARDS}"'
        raise ValueError(f"{KEY}.CAPTIONS or {KEY}.SHARDS names the pairs, one of them; got {both}.")
    return pairs_of_shards(own.SHARDS) if own.SHARDS else pairs_of_captions(own.CAPTIONS, own.IMAGES)


def pairs_of_captions(path: str, images: str) -> list[Record]:
    """Of a captions file: "images" (id, file_name) and "annotations" (image_id, caption).

    Args:
        images: the folder that file names start from.

    Raises: FileNotFoundError; ValueError for a file that is none, and for one without a caption.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There are no captions {path} ({KEY}.CAPTIONS).")
    content = read_json(path, f"file of captions ({KEY}.CAPTIONS)")
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        raise ValueError(f'{path} ({KEY}.CAPTIONS) has no "images" and "annotations": it is no file of captions.')
    captions: dict[Any, list[str]] = defaultdict(list)
    for annotation in content["annotations"]:
        if str(annotation.get("caption", "")).strip():
            captions[annotation.get("image_id")].append(str(annotation["caption"]).strip())
    records = [
        {"file_name": os.path.join(images, str(image.get("file_name", ""))), "captions": captions[image["id"]]}
        for image in content["images"]
        if captions.get(image.get("id"))
    ]
    if not records:
        raise ValueError(f"{path} ({KEY}.CAPTIONS) has no image with a caption.")
    require_images(records, f"{path} ({KEY}.IMAGES {images})", "Put it there, or take it out of the captions.")
    return records


def pairs_of_shards(pattern: str) -> list[Record]:
    """Of tar files, by a pattern such as "cc3m/*.tar". Only headers are read.

    Raises: FileNotFoundError; ValueError for files that hold no pair.
    """
    shards = sorted(glob.glob(pattern))
    if not shards:
        raise FileNotFoundError(f"No file is there of {pattern} ({KEY}.SHARDS).")
    records: list[Record] = []
    for shard in tqdm(shards, desc="shards", unit="shard", disable=len(shards) < 10):
        found = list(_pairs_of(shard))
        if not found:
            raise ValueError(f"{shard} ({KEY}.SHARDS) holds no pair of NAME.jpg and NAME.txt.")
        records += found
    return records


def _pairs_of(shard: str) -> Iterator[Record]:
    members: dict[str, dict[str, tuple[str, int, int]]] = defaultdict(dict)
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                name, suffix = os.path.splitext(member.name)
                kind = "image" if suffix.lower() in IMAGES else "text" if suffix.lower() in TEXTS else ""
                if member.isfile() and kind and (kind not in members[name] or suffix == ".txt"):
                    members[name][kind] = (suffix.lower(), member.offset_data, member.size)
    except tarfile.TarError as error:
        raise ValueError(f"{shard} ({KEY}.SHARDS) is no tar file, or a damaged one: {error}.") from error
    for name, parts in members.items():
        if parts.keys() == {"image", "text"}:
            yield {"file_name": f"{shard}/{name}{parts['image'][0]}", "shard": shard, **parts}


class PairMapper:
    """A record -> "image" (3, h, w), resized and flipped, "caption", one of its captions at random, "file_name".

    Flips do not change captions, as in the release.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.augmentations = T.AugmentationList(shortest_edge(cfg, is_train=True))
        self.order = cfg.INPUT.FORMAT

    def __call__(self, record: Record) -> dict[str, Any]:
        """Raises UnreadableImage, ValueError naming the image."""
        image, captions = self._read(record)
        seen = T.AugInput(image)
        self.augmentations(seen)
        caption = captions[np.random.randint(len(captions))]
        return {"image": to_tensor(seen.image), "caption": caption, "file_name": record["file_name"]}

    def _read(self, record: Record) -> tuple[np.ndarray, list[str]]:
        if "shard" not in record:
            return read_image(record["file_name"], self.order), record["captions"]
        with open(record["shard"], "rb") as file:
            picture, text = (_part(file, record[kind]) for kind in ("image", "text"))
        try:
            image = pixels_of(Image.open(io.BytesIO(picture)), self.order)
        except (OSError, UnreadableImage) as error:
            raise UnreadableImage(f"{record['file_name']}: {error} Leave it out of the shard.") from error
        return image, [_caption(text, record)]


def _part(file: Any, place: tuple[str, int, int]) -> bytes:
    _, offset, size = place
    file.seek(offset)
    content: bytes = file.read(size)
    return content


def _caption(text: bytes, record: Record) -> str:
    words = text.decode("utf-8", errors="replace").strip()
    if record["text"][0] == ".json":
        try:
            words = str(json.loads(words)["caption"] or "").strip()
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{record['file_name']}: the .json beside it has no caption.") from error
    if not words:
        raise ValueError(f"{record['file_name']}: its caption is empty.")
    return words
