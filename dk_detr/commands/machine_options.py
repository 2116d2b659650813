"""Options of tools/ that say how many processes work, and on which machines; their names are Detectron2's."""

import argparse

from dk_detr.engine.machines import AUTO, Machines


def add_machine_options(parser: argparse.ArgumentParser) -> None:
    """Add --num-gpus, --num-machines, --machine-rank and --dist-url."""
    group = parser.add_argument_group("processes and machines")
    group.add_argument("--num-gpus", type=int, default=1, help="processes; on a machine without GPU, CPU processes")
    group.add_argument("--num-machines", type=int, default=1, metavar="N", help="each has --num-gpus processes")
    group.add_argument("--machine-rank", type=int, default=0, metavar="I", help="of this machine, from 0 to N - 1")
    group.add_argument(
        "--dist-url", default=AUTO, metavar="tcp://HOST:PORT",
        help="an address of machine 0 and a free port there, the same on all machines",
    )  # fmt: skip


def machines_of(args: argparse.Namespace) -> Machines:
    """What they say. Raises ValueError for what cannot be."""
    return Machines(args.num_machines, args.machine_rank, args.dist_url)


def machine_arguments(args: argparse.Namespace) -> list[str]:
    """They as a command line, for a tool that calls another on the same machines."""
    machines = machines_of(args)
    which = ["--num-machines", str(machines.number), "--machine-rank", str(machines.rank), "--dist-url", machines.url]
    return ["--num-gpus", str(args.num_gpus), *which]
