"""Builds an embedding bank, or what is left of one.

Shard i belongs to process i modulo their number. There is no lock and no barrier: a shard appears whole or not at all,
and whoever finds all of them writes the manifest. Images are looked at one by one and on a CPU with one thread, so the
bank is the same bit for bit however many processes make it and however often they are killed.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from tqdm import tqdm

from dk_detr.commands.build_embedding_bank.choose import choose
from dk_detr.commands.build_embedding_bank.encoder import RegionEncoder
from dk_detr.commands.build_embedding_bank.images import KEYS, samples_of
from dk_detr.commands.build_embedding_bank.plan import Plan, human_bytes, refuse_without_space
from dk_detr.commands.build_embedding_bank.process import ALONE, Process, chosen_shards, deterministic
from dk_detr.commands.build_embedding_bank.proposal_file import ProposalFile
from dk_detr.commands.build_embedding_bank.refusals import refuse_a_vocabulary_of_many, refuse_config
from dk_detr.commands.build_embedding_bank.settings import BankRequest, Selection, crop_settings, data_settings
from dk_detr.commands.build_embedding_bank.sources import FirstStageBoxes, Source
from dk_detr.data import require_images, train_records
from dk_detr.data.bank import (
    BankImage,
    EmbeddingBank,
    Manifest,
    Shard,
    ShardEntry,
    StoredRegions,
    file_sha256,
    images_of,
    write_manifest,
    write_shard,
)
from dk_detr.data.present import CHECK_IMAGES
from dk_detr.distillation.teachers import require_clip_of, teacher_dtype
from dk_detr.engine.custom_vocabulary import prepare_custom_data
from dk_detr.engine.embedding_bank import clip_settings
from dk_detr.language import clip_from_config, is_closed, vocabularies_from_config
from dk_detr.structures import Vocabulary

TIMED = 5  # images that --estimate looks at, after one to warm up


def build_bank(
    cfg: CfgNode, request: BankRequest, shards: str | None = None, estimate: bool = False,
    process: Process = ALONE,
) -> None:  # fmt: skip
    """Build, or go on building, or say what it would take.

    Args:
        cfg: MODEL.CLIP is the teacher, DATASETS.TRAIN has the images. request: what is built, and where.
        shards: "FIRST:LAST", only these; None for all. estimate: look at a few images, and write nothing.
        process: this one among all that build.

    Raises: ValueError, FileNotFoundError for what cannot work.
    """
    with deterministic(cfg.MODEL.DEVICE):
        builder = Builder.from_config(cfg, request, process)
        plan = builder.plan
        wanted = chosen_shards(shards, plan.num_shards)
        open_shards = [shard for shard in wanted if not plan.is_done(shard)]
        process.say(plan.describe())
        refuse_without_space(plan, open_shards)
        if estimate:
            builder.estimate(open_shards)
            return
        if open_shards:
            process.say(f"{len(wanted) - len(open_shards):,} of {len(wanted):,} shards are there already.")
        builder.build(process.share_of(open_shards))
        builder.finish()


class Builder:
    """Makes the shards of a plan, and its manifest when all are there."""

    def __init__(
        self, cfg: CfgNode, plan: Plan, source: Source, encoder: RegionEncoder, selection: Selection,
        process: Process, information: dict[str, Any],
    ) -> None:  # fmt: skip
        self.cfg, self.plan, self.source, self.encoder = cfg, plan, source, encoder
        self.selection, self.process, self.information = selection, process, information

    @classmethod
    def from_config(cls, cfg: CfgNode, request: BankRequest, process: Process) -> "Builder":
        """Load what is needed. Raises ValueError, FileNotFoundError for what cannot work."""
        refuse_config(cfg)
        refuse_a_vocabulary_of_many(cfg, process)
        prepare_custom_data(cfg, training=True)
        records = _records(cfg)
        source: Source = ProposalFile(request.proposals, records) if request.proposals else FirstStageBoxes(cfg)
        clip = clip_from_config(cfg)
        vocabulary = _words(cfg)
        if vocabulary is not None:
            require_clip_of(cfg, clip, vocabulary)
        dtype = teacher_dtype(cfg)
        encoder = RegionEncoder(clip, cfg.INPUT.FORMAT == "BGR", request.crop_scales, cfg.MODEL.DEVICE, dtype)
        settings = {
            "clip": clip_settings(cfg, clip.width),
            "crops": crop_settings(clip, request.crop_scales, dtype),
            "data_sets": data_settings(cfg.DATASETS.TRAIN, [BankImage.of(record) for record in records]),
            "proposals": {**source.settings, **asdict(request.selection)},
            "images_per_shard": request.images_per_shard,
        }
        information = {"prompt": vocabulary.provenance.get("prompt") if vocabulary else None, "probe": clip.probe}
        plan = Plan(Path(request.output), settings, records)
        return cls(cfg, plan, source, encoder, request.selection, process, information)

    def build(self, shards: Sequence[int]) -> None:
        """Make these shards, one after the other."""
        records = [record for shard in shards for record in self.plan.records_of(shard)]
        samples = samples_of(self.cfg, records, self.source.needs_input)
        share = f"process 1 of {self.process.number}" if self.process.number > 1 else "embedding bank"
        with tqdm(total=len(records), unit="image", desc=share, disable=self.process.rank != 0) as bar:
            for shard in shards:
                own = self.plan.records_of(shard)
                regions = []
                for sample in islice(samples, len(own)):
                    regions.append(self.regions_of(sample))
                    bar.update()
                images = [BankImage.of(record) for record in own]
                write_shard(self.plan.path(shard), self.plan.settings, shard, images, regions)

    def regions_of(self, sample: dict[str, Any]) -> StoredRegions:
        """The regions of one image."""
        boxes, scores = choose(*self.source(sample), (sample["height"], sample["width"]), self.selection)
        return StoredRegions(boxes, scores, self.encoder(sample["pixels"], boxes))

    def estimate(self, shards: Sequence[int]) -> None:
        """Say how long these shards will take, from a few images; nothing is written."""
        records = [record for shard in shards for record in self.plan.records_of(shard)]
        if not records:
            self.process.say("Nothing is left to do.")
            return
        looked_at = [records[len(records) * i // (TIMED + 1)] for i in range(TIMED + 1)]
        samples = samples_of(self.cfg, looked_at, self.source.needs_input)
        self.regions_of(next(samples))
        start = time.perf_counter()
        counts = [len(self.regions_of(sample)) for sample in samples]
        seconds = (time.perf_counter() - start) / TIMED
        hours = seconds * len(records) / self.process.number / 3600
        self.process.say(
            f"{len(records):,} images are left. {TIMED} of them had {sum(counts) / TIMED:.0f} regions each and took "
            f"{seconds:.3f} s each: about {_duration(hours)} with {self.process.number} process(es)."
        )

    def finish(self) -> None:
        """Write the manifest if all shards are there, and open the bank as a reader would."""
        missing = [shard for shard in range(self.plan.num_shards) if not self.plan.is_done(shard)]
        if missing:
            print(
                f"Process {self.process.rank + 1} of {self.process.number} is done. {len(missing):,} of "
                f"{self.plan.num_shards:,} shards are missing, the first {missing[0]}: others are at work on them, or "
                "the same command makes them.", flush=True,
            )  # fmt: skip
            return
        with ThreadPoolExecutor(8) as pool:
            entries = tuple(pool.map(self._entry, range(self.plan.num_shards)))
        manifest = Manifest(self.plan.settings, entries, self.information)
        write_manifest(self.plan.folder, manifest, self.process.rank)
        bank = EmbeddingBank(self.plan.folder)
        print(
            f"{self.plan.folder} is finished: {len(bank):,} images, {manifest.regions:,} regions, "
            f"{human_bytes(manifest.bytes)}. Train with it: MODEL.TEACHER.NAME EmbeddingBank "
            f"MODEL.TEACHER.BANK {self.plan.folder}", flush=True,
        )  # fmt: skip

    def _entry(self, number: int) -> ShardEntry:
        path = self.plan.path(number)
        shard = Shard(path)
        return ShardEntry(path.name, len(shard), int(shard.offsets[-1]), path.stat().st_size, file_sha256(path))


def _records(cfg: CfgNode) -> list[dict[str, Any]]:
    """Of the images to train on, by ascending id, without their annotations: loader processes get them all."""
    records = train_records(cfg.DATASETS.TRAIN, cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
    require_images(records, ", ".join(cfg.DATASETS.TRAIN), CHECK_IMAGES)
    by_id = images_of(records)
    return [{key: by_id[number][key] for key in KEYS} for number in sorted(by_id)]


def _words(cfg: CfgNode) -> Vocabulary | None:
    """What a detector of this config compares regions with; a closed one compares them with nothing."""
    compares = not is_closed(cfg)
    return vocabularies_from_config(cfg)[1] if compares and cfg.MODEL.VOCABULARY.TEST else None


def _duration(hours: float) -> str:
    return f"{hours:.1f} hours" if hours >= 1 else f"{hours * 60:.1f} minutes"
