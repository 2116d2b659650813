"""What tools/build_embedding_bank.py does."""

import argparse
from collections.abc import Sequence

from dk_detr.commands.build_embedding_bank.builder import build_bank
from dk_detr.commands.build_embedding_bank.process import Process
from dk_detr.commands.build_embedding_bank.settings import BankRequest, Selection
from dk_detr.commands.machine_options import machines_of
from dk_detr.engine.launch import share_out
from dk_detr.engine.setup import one_clear_error, setup_cfg


def main(args: argparse.Namespace) -> None:
    """See tools/build_embedding_bank.py for the arguments."""
    with one_clear_error():
        selection, scales = Selection(args.regions, args.nms), tuple(args.crop_scales)
        request = BankRequest(args.output, args.proposals, selection, scales, args.images_per_shard)
        work = (args.config_file, args.opts, request, args.shards, args.estimate)
        device = setup_cfg(args.config_file, args.opts).MODEL.DEVICE
        share_out(build_share, args.num_gpus, work, device, machines_of(args), "The same command goes on.")


def build_share(
    rank: int, number: int, config_file: str, opts: Sequence[str], request: BankRequest, shards: str | None,
    estimate: bool,
) -> None:  # fmt: skip
    """The work of one process; see `build_bank`."""
    with one_clear_error():
        build_bank(setup_cfg(config_file, opts), request, shards, estimate, Process(rank, number))
