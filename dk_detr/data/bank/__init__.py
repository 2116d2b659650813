"""Embedding bank: regions of a data set's images with what a teacher sees in them, computed once.

The format is described in tools/README.md.
"""

from dk_detr.data.bank.check import check_images, check_settings, images_of
from dk_detr.data.bank.fingerprints import differences, file_sha256, identity_of, images_fingerprint
from dk_detr.data.bank.follow import follow
from dk_detr.data.bank.manifest import Manifest, ShardEntry, read_manifest, write_manifest
from dk_detr.data.bank.reader import EmbeddingBank
from dk_detr.data.bank.regions import BankImage, StoredRegions
from dk_detr.data.bank.shard import Shard, shard_name, write_shard

__all__ = [
    "BankImage", "EmbeddingBank", "Manifest", "Shard", "ShardEntry", "StoredRegions", "check_images", "check_settings",
    "differences", "file_sha256", "follow", "identity_of", "images_fingerprint", "images_of", "read_manifest",
    "shard_name", "write_manifest", "write_shard",
]  # fmt: skip
