"""Whether a bank is of this teacher and of these images; asked before training starts."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from dk_detr.data.bank.fingerprints import differences, images_fingerprint
from dk_detr.data.bank.reader import EmbeddingBank
from dk_detr.data.bank.regions import BankImage

logger = logging.getLogger(__name__)


def check_settings(bank: EmbeddingBank, part: str, wanted: dict[str, Any], remedy: str) -> None:
    """Raises ValueError where a part of the bank's settings, say "clip", differs from what is wanted."""
    other = differences({part: bank.manifest.settings.get(part, {})}, {part: wanted})
    if other:
        raise ValueError(f"Embedding bank {bank.folder} does not fit this config: {'; '.join(other)}. {remedy}")


def check_images(bank: EmbeddingBank, images: Iterable[BankImage]) -> None:
    """Whether the bank has all of these images; it may have more.

    Raises: ValueError naming the first that it lacks, or has under another file name or of another size.
    """
    wanted = list(images)
    built_from = bank.manifest.settings["data_sets"]
    if images_fingerprint(wanted) == built_from["fingerprint"]:
        return
    stored = {image.image_id: image for image in bank.images()}
    where = f"Embedding bank {bank.folder} (of {', '.join(built_from['names'])}, {len(stored):,} images)"
    remedy = "Build a bank of the data sets in DATASETS.TRAIN: tools/build_embedding_bank.py."
    lacking = [image for image in wanted if image.image_id not in stored]
    if lacking:
        raise ValueError(f"{where} lacks {len(lacking):,} of {len(wanted):,} images, the first {lacking[0]}. {remedy}")
    for image in wanted:
        _compare(where, stored[image.image_id], image, remedy)
    logger.info(f"{where} has more images than the {len(wanted):,} to train on.")


def _compare(where: str, there: BankImage, here: BankImage, remedy: str) -> None:
    if there.file_name != here.file_name:
        raise ValueError(f"{where} is of another data set: its image {there} is {here.file_name} here. {remedy}")
    if there != here:
        raise ValueError(
            f"{where}: image {there} is {there.width}×{there.height} pixels there, {here.width}×{here.height} here. "
            f"Were the images changed? {remedy}"
        )


def images_of(records: Iterable[Mapping[str, Any]]) -> dict[int, Mapping[str, Any]]:
    """The records by image id; an image that several data sets share is there once.

    Raises: ValueError where two data sets give one id to different images: a bank could not tell them apart.
    """
    by_id: dict[int, Mapping[str, Any]] = {}
    for record in records:
        first = by_id.setdefault(BankImage.of(record).image_id, record)
        if first is not record and first["file_name"] != record["file_name"]:
            raise ValueError(
                f"DATASETS.TRAIN: {first['file_name']} and {record['file_name']} have the same image id "
                f"{record['image_id']}; an embedding bank cannot tell them apart. Give the images of one data set "
                "other ids, or train on one of them."
            )
    return by_id
