"""The same annotations in other formats, written by `supervision`."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from dk_detr.utils.packages import optional_package

FORMATS = ("coco", "yolo", "voc")


def require_supervision() -> None:
    """Raises ImportError where the package is missing."""
    optional_package("supervision", "--format yolo and voc need")


def refuse_repeated_names(names: Sequence[str]) -> None:
    """YOLO and Pascal VOC call the file of an image by its name, without folder and ending: ValueError where two would
    get the same."""
    stem, times = Counter(PurePosixPath(name).stem for name in names).most_common(1)[0]
    if times > 1:
        raise ValueError(f'--format yolo and voc write one file "{stem}" for {times} images of that name: rename them.')


def write_format(kind: str, annotations: Path, root: Path) -> Path:
    """Write a folder beside the annotation file; returns it. Masks become polygons.

    Args:
        kind: "yolo" or "voc". root: the folder that the names of the images are below.
    """
    import supervision

    folder = annotations.with_name(f"{annotations.stem}_{kind}")
    data = supervision.DetectionDataset.from_coco(str(root), str(annotations))
    if kind == "yolo":
        folder.mkdir(parents=True, exist_ok=True)
        data.as_yolo(annotations_directory_path=str(folder / "labels"), data_yaml_path=str(folder / "data.yaml"))
    else:
        data.as_pascal_voc(annotations_directory_path=str(folder))
    return folder
