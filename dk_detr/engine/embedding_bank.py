"""The bank of MODEL.TEACHER.BANK, looked through before training starts."""

from collections.abc import Iterable, Mapping
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils import comm

from dk_detr.data.bank import BankImage, EmbeddingBank, check_images, check_settings, identity_of, images_of
from dk_detr.language import require_same_probe
from dk_detr.meta_arch.extensions import teaches_image_embeddings
from dk_detr.structures import Vocabulary


def bank_of_training(cfg: CfgNode, records: Iterable[Mapping[str, Any]], words: Vocabulary) -> EmbeddingBank | None:
    """The bank that teaches, if one does.

    Args:
        records: to train on. words: of the model.

    Raises: FileNotFoundError; ValueError for a bank that is unfinished, damaged, or of another teacher or data set.
    """
    teacher = cfg.MODEL.TEACHER
    if teacher.NAME != "EmbeddingBank" or not teaches_image_embeddings(cfg):
        return None
    if not teacher.BANK:
        raise ValueError(
            'MODEL.TEACHER.NAME "EmbeddingBank" needs MODEL.TEACHER.BANK, a folder that tools/build_embedding_bank.py '
            "wrote."
        )
    if teacher.BANK_REGIONS < 1:
        raise ValueError(f"MODEL.TEACHER.BANK_REGIONS must be at least 1, got {teacher.BANK_REGIONS}.")
    bank = EmbeddingBank(teacher.BANK)
    remedy = "Set MODEL.CLIP and MODEL.VOCABULARY to those of the bank, or build a bank for this config."
    probe = bank.manifest.information.get("probe", "")
    if not require_same_probe(words, probe, f"embedding bank {bank.folder} (MODEL.TEACHER.BANK)", remedy):
        check_settings(bank, "clip", clip_settings(cfg, words.width), remedy)
    check_images(bank, [BankImage.of(record) for record in images_of(records).values()])
    if comm.get_local_rank() == 0:  # once a machine
        bank.verify(progress=True)
    return bank


def clip_settings(cfg: CfgNode, width: int) -> dict[str, Any]:
    """Which CLIP MODEL.CLIP is: files by their contents."""
    clip = cfg.MODEL.CLIP
    return {
        "library": clip.LIBRARY,
        "architecture": identity_of(clip.ARCHITECTURE),
        "weights": identity_of(clip.WEIGHTS),
        "width": width,
        **({"image_weights": identity_of(clip.IMAGE_WEIGHTS)} if clip.IMAGE_WEIGHTS else {}),
    }
