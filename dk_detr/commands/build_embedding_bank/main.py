"""What tools/build_embedding_bank.py does."""

import argparse

from dk_detr.commands.build_embedding_bank.builder import build_bank
from dk_detr.commands.build_embedding_bank.settings import BankRequest, Selection
from dk_detr.engine.setup import one_clear_error, setup_cfg


def main(args: argparse.Namespace) -> None:
    """See tools/build_embedding_bank.py for the arguments."""
    with one_clear_error():
        cfg = setup_cfg(args.config_file, args.opts)
        selection, scales = Selection(args.regions, args.nms), tuple(args.crop_scales)
        request = BankRequest(args.output, args.proposals, selection, scales, args.images_per_shard)
        build_bank(cfg, request, args.shards, args.estimate)
