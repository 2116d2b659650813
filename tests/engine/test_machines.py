"""Several machines that make one run: two on the loopback, joined by gloo."""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from detectron2.utils import comm

from dk_detr.commands.train import main
from dk_detr.engine import Trainer, machines, one_clear_error
from dk_detr.engine.launch import launch, share_out
from dk_detr.engine.machines import Machines
from dk_detr.engine.run_folder import read_results
from tests.engine import dies_once
from tests.run_fixtures import MINI, REPOSITORY, World, assert_same_training
from tests.two_machines import TIMEOUT, Ended, free_port, on_machines

RUN = {"SOLVER__MAX_ITER": 3, "SOLVER__CHECKPOINT_PERIOD": 1, "SOLVER__WARMUP_ITERS": 0}


# ---- arguments ----


@pytest.mark.parametrize(
    "arguments, said",
    [
        ((0,), "--num-machines must be at least 1, got 0"),
        ((2, 2, "tcp://a:1"), "--machine-rank 2 of --num-machines 2: machines are counted from 0 to 1"),
        ((2, -1, "tcp://a:1"), "--machine-rank -1 of --num-machines 2"),
        ((2, 0), "--num-machines 2 needs --dist-url tcp://HOST:PORT, the same on all machines"),
        ((2, 0, "file:///shared/store"), "--dist-url file:///shared/store is no address; wanted tcp://HOST:PORT"),
        ((2, 0, "tcp://10.0.0.1"), "is no address"),
        ((2, 0, "tcp://10.0.0.1:port"), "is no address"),
        ((2, 0, "10.0.0.1:29500"), "is no address"),
    ],
)
def test_arguments_that_cannot_be_are_refused_before_anything_starts(arguments: tuple[Any, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        launch(print, 1, machines=Machines(*arguments))


def test_under_torchrun_machines_are_torchruns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    with pytest.raises(ValueError, match="leave out --num-machines"):
        launch(print, 1, machines=Machines(2, 0, "tcp://a:1"))


def test_a_run_that_torchrun_would_start_anew_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    with pytest.raises(SystemExit):
        main(arguments_of(Machines(), 1, []))
    assert "and it would begin anew: add --resume" in capsys.readouterr().err


# ---- meeting ----


def work(*args: Any) -> None:
    """Meet the other machines, and say who is there."""
    with one_clear_error():
        launch(report, args[0], device="cpu", machines=Machines(*args[1:]))


def report() -> None:
    told = comm.all_gather((comm.get_rank(), comm.get_local_rank(), os.environ["WORLD_SIZE"]))
    if comm.get_local_rank() == 0:
        print(told, flush=True)


def work_soon_or_not_at_all(*args: Any) -> None:
    with patch.object(machines, "TO_MEET", 1.0):
        work(*args)


def test_processes_of_two_machines_know_of_one_another(tmp_path: Path) -> None:
    url = f"tcp://127.0.0.1:{free_port()}"
    for ended in on_machines(work, tmp_path, (2, 2, 0, url), (2, 2, 1, url)):
        assert ended.code == 0, ended.terminal
        assert str([(0, 0, "4"), (1, 1, "4"), (2, 0, "4"), (3, 1, "4")]) in ended.terminal


@pytest.mark.parametrize("first, second, said", [
    ((1, 2, 0), (2, 2, 1), "--num-gpus is 1 on machine 0"),
    ((1, 3, 0), (1, 2, 1), "--num-machines is 3 on machine 0"),
])  # fmt: skip
def test_machines_that_disagree_on_their_number_say_so(
    first: tuple[int, ...], second: tuple[int, ...], said: str, tmp_path: Path
) -> None:
    url = f"tcp://127.0.0.1:{free_port()}"
    ends = on_machines(work, tmp_path, (*first, url), (*second, url))
    assert [ended.code for ended in ends] == [1, 1]
    assert all(len(ended.errors) == 1 for ended in ends)
    assert said in ends[0].errors[0] and "it must be the same" in ends[1].errors[0]


def test_two_machines_of_one_rank_are_refused(tmp_path: Path) -> None:
    url = f"tcp://127.0.0.1:{free_port()}"
    ends = on_machines(work_soon_or_not_at_all, tmp_path, (1, 3, 0, url), (1, 3, 1, url), (1, 3, 1, url))
    assert [ended.code for ended in ends] == [1, 1, 1]
    assert any("--machine-rank 1 is there already" in ended.errors[0] for ended in ends[1:])


@pytest.mark.parametrize("rank, said", [
    (0, "machine 1 did not come within 0 minutes. Is it started?"),
    (1, "Machine 0 did not answer at tcp://127.0.0.1:"),
])  # fmt: skip
def test_a_machine_that_does_not_come_is_not_waited_for_without_end(rank: int, said: str, tmp_path: Path) -> None:
    (ended,) = on_machines(work_soon_or_not_at_all, tmp_path, (1, 2, rank, f"tcp://127.0.0.1:{free_port()}"))
    assert ended.code == 1 and len(ended.errors) == 1 and said in ended.errors[0]
    assert "Waiting for machine" in ended.terminal


def fall_silent(*args: Any) -> None:
    """Machine 1 gives no sign of life; its worker waits."""
    silent = patch.object(machines.Meeting, "watch", lambda self: time.sleep(0)) if args[2] == 1 else patch.dict({})
    with silent, patch.object(machines, "SILENCE", 1.0), one_clear_error():
        launch(time.sleep, args[0], (6,), "cpu", Machines(*args[1:]), "Start again.")


def test_a_machine_that_vanishes_ends_the_run(tmp_path: Path) -> None:
    url = f"tcp://127.0.0.1:{free_port()}"
    first, _ = on_machines(fall_silent, tmp_path, (1, 2, 0, url), (1, 2, 1, url))
    assert first.code == 1 and len(first.errors) == 1
    assert "Machine 1 (" in first.errors[0] and "no sign of life for 1 seconds. Start again." in first.errors[0]


def test_shares_are_counted_over_all_machines_that_never_meet(tmp_path: Path) -> None:
    (ended,) = on_machines(share, tmp_path, (2, Machines(3, 1)))
    assert ended.code == 0 and sorted(ended.terminal.split()) == ["2/6", "3/6"]
    share(1, Machines(3, 2))  # in this process


def share(num_processes: int, of: Machines) -> None:
    share_out(say_share, num_processes, machines=of)


def say_share(rank: int, number: int) -> None:
    print(f"{rank}/{number}", flush=True)


# ---- training ----


def arguments_of(of: Machines, num_gpus: int, opts: list[str], **more: Any) -> argparse.Namespace:
    return argparse.Namespace(
        config_file=MINI, num_gpus=num_gpus, num_machines=of.number, machine_rank=of.rank, dist_url=of.url, opts=opts,
        **{"resume": False, "eval_only": False, **more},
    )  # fmt: skip


def train(world: World, of: Machines, opts: list[str], dies: bool = False, num_gpus: int = 1, **more: Any) -> None:
    """As tools/train_net.py does.

    Args:
        dies: the process of rank 1 is killed in the second iteration.
    """
    step = Trainer.run_step

    def step_or_die(trainer: Trainer) -> None:
        if trainer.iter == 1 and comm.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        step(trainer)

    with world.in_use(), patch.object(Trainer, "run_step", step_or_die if dies else step):
        main(arguments_of(of, num_gpus, opts, **more))


def train_from(keywords: dict[str, Any]) -> None:
    train(**keywords)


def on_two(world: World, folder: Path, *options: dict[str, Any], **more: Any) -> list[Ended]:
    """Train on two machines.

    Args:
        options: of both machines, or of each.
    """
    url = f"tcp://127.0.0.1:{free_port()}"
    opts = [world.options(**{"OUTPUT_DIR": folder / "run", **RUN, **own}) for own in options * (3 - len(options))]
    jobs = [({"world": world, "of": Machines(2, rank, url), "opts": opts[rank], **more},) for rank in range(2)]
    return on_machines(train_from, folder, *jobs)


@pytest.fixture(scope="module")
def alone(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of two processes on one machine."""
    folder = tmp_path_factory.mktemp("alone")
    opts = world.options(OUTPUT_DIR=folder / "run", **RUN)
    (ended,) = on_machines(train_from, folder, ({"world": world, "of": Machines(), "opts": opts, "num_gpus": 2},))
    assert ended.code == 0, ended.terminal
    return folder / "run"


@pytest.fixture(scope="module")
def killed(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Ended]]:
    """The run of two machines, of which one's worker is killed after the first checkpoint."""
    folder = tmp_path_factory.mktemp("killed")
    return folder, on_two(world, folder, {}, dies=True)


def test_a_killed_worker_ends_the_run_with_one_clear_error_on_each_machine(killed: tuple[Path, list[Ended]]) -> None:
    for ended in killed[1]:
        assert ended.code == 1 and len(ended.errors) == 1, ended.terminal
        assert "Rank 1 (machine 1) was ended by SIGKILL; the system does so when memory runs out." in ended.errors[0]
        assert "The same command with --resume, on every machine, goes on from the last checkpoint" in ended.errors[0]


def test_a_run_of_two_machines_goes_on_and_ends_as_that_of_one_does(
    killed: tuple[Path, list[Ended]], alone: Path, world: World
) -> None:
    folder, _ = killed
    for ended in on_two(world, folder, {}, resume=True):
        assert ended.code == 0, ended.terminal
    log = (folder / "run" / "log.txt").read_text()
    assert "2 process(es) on cpu" in log and "model_0000000.pth" in log
    assert_same_training(folder / "run" / "model_final.pth", alone / "model_final.pth")
    weights = {"MODEL__WEIGHTS": alone / "model_final.pth", "OUTPUT_DIR": folder / "evaluated"}
    for ended in on_two(world, folder, weights, eval_only=True):
        assert ended.code == 0, ended.terminal
    evaluated, trained = read_results(str(folder / "evaluated")), read_results(str(alone))
    assert evaluated and trained and str(evaluated["results"]) == str(trained["results"])


def test_torchrun_restarts_a_run_of_two_machines_from_the_last_checkpoint(
    alone: Path, world: World, tmp_path: Path
) -> None:
    rendezvous = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}", "--rdzv-id", "tests"]
    local = ["--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", "1", "--local-addr", "127.0.0.1"]
    command = [sys.executable, "-m", "torch.distributed.run", *local, *rendezvous, dies_once.__file__]
    options = ["--config-file", MINI, "--resume", *world.options(OUTPUT_DIR=tmp_path / "run", **RUN)]
    more = {"DETECTRON2_DATASETS": str(world.root), "PYTHONPATH": str(REPOSITORY), "GLOO_SOCKET_IFNAME": "lo"}
    terminals = [tmp_path / f"terminal_{number}.txt" for number in range(2)]
    nodes = []
    for number, terminal in enumerate(terminals):
        with open(terminal, "w") as file:
            words = [*command[:3], "--node-rank", str(number), *command[3:], *options]
            nodes.append(subprocess.Popen(words, env={**os.environ, **more}, stdout=file, stderr=file))
    codes = [node.wait(timeout=TIMEOUT) for node in nodes]
    said = "\n".join(terminal.read_text() for terminal in terminals)
    assert codes == [0, 0], said
    assert "error: Rank 1 (machine 1) ended without a word: killed, or its machine is gone." in said
    assert said.count("error: ") == 1 and "goes on from the last checkpoint" in said
    assert_same_training(tmp_path / "run" / "model_final.pth", alone / "model_final.pth")


def test_machines_of_other_configs_are_refused_by_key(world: World, tmp_path: Path) -> None:
    ends = on_two(world, tmp_path, {"SOLVER__BASE_LR": 0.1}, {"SOLVER__BASE_LR": 0.2})
    assert [ended.code for ended in ends] == [1, 1]
    for ended in ends:
        assert len(ended.errors) == 1 and "SOLVER.BASE_LR is 0.1 for Rank 0 (machine 0, " in ended.errors[0]
        assert "but 0.2 for Rank 1 (machine 1, " in ended.errors[0]


def test_machines_that_do_not_share_the_output_folder_are_refused(world: World, tmp_path: Path) -> None:
    """Folders of the same relative name, in two places."""
    url = f"tcp://127.0.0.1:{free_port()}"
    opts = world.options(OUTPUT_DIR="run", **RUN)
    jobs = [(tmp_path / str(rank), {"world": world, "of": Machines(2, rank, url), "opts": opts}) for rank in range(2)]
    for ended in on_machines(train_elsewhere, tmp_path, *jobs):
        assert ended.code == 1 and len(ended.errors) == 1, ended.terminal
        assert "does not see what machine 0 writes to" in ended.errors[0] and "OUTPUT_DIR must be on" in ended.errors[0]
    assert not list(tmp_path.rglob(".shared_*")) and not (tmp_path / "1" / "run").exists()


def train_elsewhere(folder: Path, keywords: dict[str, Any]) -> None:
    folder.mkdir()
    os.chdir(folder)
    with patch("dk_detr.engine.agreement.UNTIL_SEEN", 1.0):
        train(**keywords)


def test_machines_with_other_annotations_are_refused_by_the_data_sets_name(world: World, tmp_path: Path) -> None:
    """Each machine has its own DETECTRON2_DATASETS; the file of one has a space more."""
    other = tmp_path / "other"
    (other / "mini_lvis" / "annotations").mkdir(parents=True)
    (other / "mini_lvis" / "train").symlink_to(world.root / "mini_lvis" / "train")
    for file in (world.root / "mini_lvis" / "annotations").iterdir():
        (other / "mini_lvis" / "annotations" / file.name).write_text(file.read_text() + " ")
    url = f"tcp://127.0.0.1:{free_port()}"
    opts = world.options(OUTPUT_DIR=tmp_path / "run", **RUN)
    worlds = (world, World(other))
    jobs = [({"world": worlds[rank], "of": Machines(2, rank, url), "opts": opts},) for rank in range(2)]
    for ended in on_machines(train_from, tmp_path, *jobs):
        assert ended.code == 1 and len(ended.errors) == 1, ended.terminal
        assert "The annotation file of mini_lvis_" in ended.errors[0] and "machine 1" in ended.errors[0]
