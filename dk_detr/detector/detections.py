"""Detections: what was found in one image, each with its word, for people, for `supervision` and for COCO's tools.

N detections in an image of H × W pixels.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.structures import Instances
from PIL import Image

from dk_detr.data.images import read_image
from dk_detr.structures import Vocabulary
from dk_detr.utils.packages import optional_package
from dk_detr.visualization.pictures import LabelledBoxes, best_of_each_box, draw_boxes, with_legend

if TYPE_CHECKING:
    import supervision


@dataclass(frozen=True)
class Detections:
    """What was found in one image, the best first.

    Attributes:
        boxes_xyxy_abs: (N, 4) float32, in pixels of the image.
        scores: (N,) float32 in [0, 1].
        names: N words, as they were asked for.
        class_ids: (N,) int, the place of each word in `classes`.
        classes: all the words that were asked for.
        novel: (N,) bool, True where the word never had a box in training.
        size: (H, W) of the image, turned as its EXIF says.
        masks: (N, H, W) bool; None of a detector without masks.
        file: of the image; "" for one in memory.
        pixels: (H, W, 3) uint8 RGB; None for a file, which is read again when it is drawn.
    """

    boxes_xyxy_abs: np.ndarray
    scores: np.ndarray
    names: tuple[str, ...]
    class_ids: np.ndarray
    classes: tuple[str, ...]
    novel: np.ndarray
    size: tuple[int, int]
    masks: np.ndarray | None = None
    file: str = ""
    pixels: np.ndarray | None = None

    @classmethod
    def of(cls, found: Instances, words: Vocabulary, file: str = "", pixels: np.ndarray | None = None) -> Detections:
        """Of what a model returns, on the CPU; `words` is what its classes index."""
        ids = found.pred_classes.numpy()
        return cls(
            boxes_xyxy_abs=found.pred_boxes.tensor.numpy(),
            scores=found.scores.numpy(),
            names=tuple(words.names[index] for index in ids),
            class_ids=ids,
            classes=words.names,
            novel=words.novel.cpu().numpy()[ids],
            size=found.image_size,
            masks=found.pred_masks.numpy() if found.has("pred_masks") else None,
            file=file,
            pixels=pixels,
        )

    @classmethod
    def of_supervision(cls, found: Any, like: Detections) -> Detections:
        """Of what `to_supervision` gave, after `supervision` has changed it; image and words are those of `like`."""
        return replace(
            like,
            boxes_xyxy_abs=np.asarray(found.xyxy, dtype=np.float32),
            scores=np.asarray(found.confidence, dtype=np.float32),
            names=tuple(like.classes[index] for index in found.class_id),
            class_ids=np.asarray(found.class_id),
            novel=np.asarray(found.data["novel"], dtype=bool),
            masks=None if like.masks is None else np.asarray(found.mask),
        )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, which: Any) -> Detections:
        """Some of them: `[0]`, `[:5]`, `[detections.scores > 0.5]`, and of one word `["cat"]`."""
        if isinstance(which, str):
            if which not in self.classes:
                raise KeyError(f'"{which}" was not asked for; the words were {", ".join(self.classes[:10])}.')
            which = np.array([name == which for name in self.names], dtype=bool)
        rows = np.atleast_1d(np.arange(len(self))[which])
        return replace(
            self,
            boxes_xyxy_abs=self.boxes_xyxy_abs[rows],
            scores=self.scores[rows],
            names=tuple(self.names[row] for row in rows),
            class_ids=self.class_ids[rows],
            novel=self.novel[rows],
            masks=None if self.masks is None else self.masks[rows],
        )

    def __iter__(self) -> Iterator[Detections]:
        return (self[row] for row in range(len(self)))

    def __repr__(self) -> str:
        of_word: dict[str, list[str]] = defaultdict(list)
        for name, score in zip(self.names, self.scores):
            of_word[name].append(f"{score:.2f}")
        found = "; ".join(f"{name} {', '.join(scores)}" for name, scores in of_word.items())
        return f"<{len(self)} detections in {self.file or 'an image'}{': ' if found else ''}{found}>"

    def _repr_png_(self) -> bytes:
        """Notebooks show this."""
        buffer = io.BytesIO()
        self.draw().save(buffer, "PNG")
        return buffer.getvalue()

    def draw(self, legend: bool | None = None) -> Image.Image:
        """The image with boxes, words and masks. Of several words for one box the best is drawn; a star marks those
        that are novel. Small images are enlarged.

        Args:
            legend: whether a strip below says what the star means; None for where there is one.

        Raises: UnreadableImage for a file that is gone.
        """
        rgb = read_image(self.file) if self.pixels is None else self.pixels
        best = self[best_of_each_box(self.boxes_xyxy_abs, self.scores)]
        picture = draw_boxes(
            rgb, LabelledBoxes(best.boxes_xyxy_abs, best.names, best.novel.tolist(), best.scores.tolist(), best.masks)
        )
        legend = bool(best.novel.any()) if legend is None else legend
        return Image.fromarray(with_legend(picture) if legend else picture)

    def to_supervision(self) -> supervision.Detections:
        """The same for the package `supervision`, which draws, counts, tracks and converts. Words are in
        `data["class_name"]`, whether they are novel in `data["novel"]`. Raises ImportError where it is missing."""
        package = optional_package("supervision", "`to_supervision` needs")
        return package.Detections(  # type: ignore[no-any-return]
            xyxy=self.boxes_xyxy_abs,
            mask=self.masks,
            confidence=self.scores,
            class_id=self.class_ids,
            data={"class_name": np.array(self.names, dtype=str), "novel": self.novel},
        )

    def to_coco(self, image_id: int | str | None = None, ids: Mapping[str, int] | None = None) -> list[dict[str, Any]]:
        """Records as COCO's results have them: image_id, category_id, bbox (x, y, w, h in pixels), score; beside them
        "category_name"; of masks "segmentation", compressed RLE.

        Args:
            image_id: of the annotation file; None for the name of the file.
            ids: category id of each word; None for its place in `classes`, from 1.

        Raises: KeyError for a word that has no id.
        """
        ids = {name: number for number, name in enumerate(self.classes, start=1)} if ids is None else ids
        missing = sorted(set(self.names) - set(ids))
        if missing:
            raise KeyError(f'No category id is given for "{missing[0]}".')
        image = self.file if image_id is None else image_id
        records: list[dict[str, Any]] = [
            {
                "image_id": image, "category_id": ids[name], "category_name": name,
                "bbox": [round(float(side), 2) for side in (x0, y0, x1 - x0, y1 - y0)], "score": round(float(score), 5),
            }
            for name, score, (x0, y0, x1, y1) in zip(self.names, self.scores, self.boxes_xyxy_abs)
        ]  # fmt: skip
        for record, mask in zip(records, () if self.masks is None else self.masks):
            record["segmentation"] = encode_mask(mask)
        return records


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """(H, W) bool -> COCO's compressed RLE, as JSON can hold it."""
    code = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": code["size"], "counts": code["counts"].decode()}
