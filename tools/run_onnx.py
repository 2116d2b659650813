#!/usr/bin/env python3
"""Detect in pictures with an ONNX file of tools/export.py. Needs numpy, onnxruntime and Pillow, nothing of dk_detr.

    tools/run_onnx.py detector.onnx photos/*.jpg --vocabulary words.npz --output detections.json

The words are those of a vocabulary file of tools/build_vocabulary.py, others than at the export, too; a file whose
words are fixed takes none. Writes a JSON list: of each image its file, width, height, and the detections with name,
score, box (x0, y0, x1, y1 in pixels), and of a detector with masks "segmentation", COCO's run lengths.
"""

import argparse
import json
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

SAME_ENCODER = 0.999  # least cosine of one text in the embeddings of one CLIP


class Detector:
    """An ONNX file and the words to detect with it.

    Args:
        path: of the file. vocabulary: .npz of tools/build_vocabulary.py; "" where the words of the file are fixed.

    Raises: ValueError for what is no such file, words where none are taken, or of another text encoder.
    """

    def __init__(self, path: str, vocabulary: str = "") -> None:
        if not Path(path).is_file():
            raise FileNotFoundError(f"There is no ONNX file {path}.")
        try:
            self.session = onnxruntime.InferenceSession(path, providers=onnxruntime.get_available_providers())
        except Exception as error:  # ONNX Runtime's own have no common kind
            raise ValueError(f"ONNX Runtime cannot read {path}: {error}") from error
        told = self.session.get_modelmeta().custom_metadata_map
        if told.get("format") != "dk_detr export 1":
            raise ValueError(f"{path} was not written by tools/export.py.")
        texts = ("format", "words", "order", "weights", "outputs", "torch")
        self.told: dict[str, Any] = {key: value if key in texts else json.loads(value) for key, value in told.items()}
        self.names, self.words = self._words(path, vocabulary)

    def _words(self, path: str, vocabulary: str) -> tuple[list[str], dict[str, np.ndarray]]:
        """Names by label, and the inputs that say which words these are."""
        inputs = {given.name: given for given in self.session.get_inputs()}
        if "text_embeddings" not in inputs:
            if vocabulary:
                raise ValueError(f"{path} knows the words of its export and takes no others: leave --vocabulary out.")
            return self.told["names"], {}
        if not vocabulary:
            raise ValueError(f"{path} detects any words: name a file of them, --vocabulary words.npz.")
        names, rows, provenance = read_vocabulary(vocabulary)
        width = inputs["text_embeddings"].shape[1]
        if rows.shape[1] != width:
            raise ValueError(
                f"{vocabulary} has text embeddings of width {rows.shape[1]}, but {path} compares with width {width}: "
                "build the words with the CLIP of the detector, tools/build_vocabulary.py."
            )
        refuse_other_encoder(vocabulary, provenance, self.told["provenance"])
        trained = set(map(readable, self.told["train_names"]))
        novel = np.array([readable(name) not in trained for name in names])
        words = {"text_embeddings": rows.astype(np.float32), "novel": novel}
        return names, {name: value for name, value in words.items() if name in inputs}

    def __call__(self, image: Image.Image) -> dict[str, Any]:
        """The detections of an `upright` picture, in its own pixels: see the file's first lines."""
        width, height = image.size
        pixels = np.asarray(image.resize(self._size(width, height), Image.Resampling.BILINEAR))
        ordered = pixels if self.told["order"] == "RGB" else pixels[:, :, ::-1]
        inputs = {
            "images": np.ascontiguousarray(ordered.transpose(2, 0, 1), dtype=np.float32)[None],
            "orig_target_sizes": np.array([[height, width]], dtype=np.int64),
        }
        try:
            outputs = self.session.run(None, inputs | self.words)
        except Exception as error:  # an image with fewer tokens than queries, perhaps
            raise ValueError(f"The detector cannot take an image of {width}x{height} pixels: {error}") from error
        found = dict(zip(self.told["outputs"].split(","), outputs))
        kept = found["scores"][0] > 0
        return {name: values[0][kept] for name, values in found.items()}

    def _size(self, width: int, height: int) -> tuple[int, int]:
        """(w, h) that the detector sees: as the evaluation of its config resizes images."""
        if self.told["image_size"]:
            h, w = self.told["image_size"]
            return w, h
        scale = self.told["min_size"] / min(width, height)
        sides = (width * scale, height * scale) if scale else (width, height)
        if scale and max(sides) > self.told["max_size"]:
            shrink = self.told["max_size"] / max(sides)
            sides = sides[0] * shrink, sides[1] * shrink
        w, h = (max(int(side + 0.5), 1) for side in sides)
        square = self.told["padded_side"]
        if square and max(w, h) > square:
            raise ValueError(f"An image of {w}x{h} pixels does not fit into the detector's square of {square}.")
        return w, h


def upright(file: Image.Image) -> Image.Image:
    """An opened picture as the detector was trained to see it: turned as its EXIF says, RGB in 8 bits, on white paper
    where it is transparent.

    Raises: ValueError for grey of which the file does not say which number is white.
    """
    if file.mode in ("I", "F") or (file.mode.startswith("I") and file.format == "TIFF"):
        raise ValueError(f'its grey is of mode "{file.mode}": save it as a PNG of 8 or 16 bits')
    image = ImageOps.exif_transpose(file)
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.uint32)
        values[values == image.info.get("transparency", -1)] = 65535
        return Image.fromarray(((2 * 255 * values + 65535) // (2 * 65535)).astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    return Image.composite(rgba.convert("RGB"), Image.new("RGB", image.size, "white"), rgba.getchannel("A"))


def read_vocabulary(path: str) -> tuple[list[str], np.ndarray, dict[str, str]]:
    """Names, embeddings (K, E) and provenance of a vocabulary file. Raises ValueError for another file."""
    try:
        with np.load(path, allow_pickle=False) as content:
            return content["names"].tolist(), content["embeddings"], json.loads(str(content["provenance"]))
    except (KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no vocabulary of tools/build_vocabulary.py.") from error


def refuse_other_encoder(path: str, ours: dict[str, str], theirs: dict[str, str]) -> None:
    """Raises ValueError where the same text, a probe, has another embedding in both."""
    if "probe" in ours and "probe" in theirs:
        one, other = (np.array(json.loads(each["probe"]), dtype=np.float64) for each in (ours, theirs))
        cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other) if one.shape == other.shape else 0.0
        if cosine < SAME_ENCODER:
            raise ValueError(
                f"{path} comes from another text encoder ({ours.get('encoder')}) than the detector's "
                f"({theirs.get('encoder')}): build the words with that, tools/build_vocabulary.py."
            )


def readable(name: str) -> str:
    """A name as words: names that differ in this no more are one word."""
    return " ".join(name.replace("_", " ").replace("/", " or ").lower().split()).rstrip(". ")


def records(found: dict[str, np.ndarray], names: list[str], size: tuple[int, int], threshold: float) -> list[Any]:
    """Detections for the JSON, the best first. `size`: (w, h) of the image."""
    listed = []
    for number, (label, score, box) in enumerate(zip(found["labels"], found["scores"], found["boxes"])):
        if score < threshold:
            continue
        record = {"name": names[label], "score": round(float(score), 4), "box": [round(float(x), 2) for x in box]}
        if "masks" in found:
            record["segmentation"] = run_lengths(enlarged(found["masks"][number], size) > 0.5)
        listed.append(record)
    return listed


def enlarged(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w) probabilities -> those of an image (w, h): bilinear, the corners stay in place."""
    for axis, side in ((1, size[0]), (0, size[1])):
        places = np.linspace(0, mask.shape[axis] - 1, side)
        low = np.floor(places).astype(int)
        high = np.minimum(low + 1, mask.shape[axis] - 1)
        share = (places - low).reshape((-1, 1) if axis == 0 else (1, -1))
        mask = mask.take(low, axis) * (1 - share) + mask.take(high, axis) * share
    return mask


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """COCO's uncompressed code of a mask: lengths of runs down the columns, of 0 first."""
    pixels = np.concatenate([[False], mask.flatten(order="F")])
    turns = np.flatnonzero(pixels[1:] != pixels[:-1])
    counts = np.diff(np.concatenate([[0], turns, [mask.size]]))
    return {"size": list(mask.shape), "counts": counts.tolist()}


def main(args: argparse.Namespace) -> None:
    """Detect in all images; the JSON appears whole or not at all. Raises ValueError at the end, naming images that
    could not be done; the others are in the JSON."""
    detector, listed, failed = Detector(args.detector, args.vocabulary), [], []
    for path in args.images:
        try:
            with Image.open(path) as file:
                image = upright(file)
                found = records(detector(image), detector.names, image.size, args.confidence_threshold)
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            failed.append(f"{path} ({error})")
            continue
        listed.append({"file": path, "width": image.width, "height": image.height, "detections": found})
        print(f"{path}: {len(found)} detections")
    unfinished = Path(f"{args.output}.part")
    unfinished.write_text("[\n" + ",\n".join(map(json.dumps, listed)) + "\n]\n")
    os.replace(unfinished, args.output)
    if failed:
        raise ValueError(f"{len(failed)} of {len(args.images)} images could not be done: {'; '.join(failed)}")


def parse() -> argparse.Namespace:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detector", metavar="ONNX")
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--vocabulary", default="", metavar="NPZ", help="the words to detect")
    parser.add_argument("--output", default="detections.json", metavar="JSON", help="(default: detections.json)")
    parser.add_argument("--confidence-threshold", type=float, default=0.3, metavar="SCORE")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main(parse())
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
