"""Several processes train one network: same losses, same masks; and one that is lost ends them all, by name."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lottery.runs import complaint, events, flags, fork, free_port, only_run, table, traces
from swlottery.errors import BadInput
from swlottery.lottery import start as start_
from swlottery.lottery.training import Training
from swlottery.runtime import files
from swlottery.runtime.ranks import Place, Ranks


def start(size: int, arguments: list[str], log: Path, patch: Callable[[int], None] = lambda rank: None) -> list[int]:
    """The command in ``size`` processes, as torchrun would start them; stdout and stderr of rank n go to ``log``n.

    patch: called in each with its rank.
    """
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(size)}

    def place(rank: int) -> Callable[[], None]:
        def patched() -> None:
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size)}
            os.environ.update(meeting | own)
            patch(rank)

        return patched

    return [fork(arguments, Path(f"{log}{rank}"), place(rank)) for rank in range(size)]


def ends(started: list[int], seconds: float = 120) -> list[int]:
    """The exit codes of processes, -n for signal n. Whatever runs when the time is up is killed."""
    until = time.monotonic() + seconds
    codes = []
    for pid in started:
        while (done := os.waitpid(pid, os.WNOHANG))[0] == 0:
            if time.monotonic() > until:
                os.kill(pid, signal.SIGKILL)
                done = os.waitpid(pid, 0)
                break
            time.sleep(0.02)
        codes.append(os.waitstatus_to_exitcode(done[1]))
    return codes


def run(size: int, arguments: list[str], log: Path, patch: Callable[[int], None] = lambda rank: None) -> list[int]:
    """The exit codes of all ranks."""
    return ends(start(size, arguments, log, patch))


def before(owner: Any, name: str, do: Callable[..., None]) -> None:
    """Have ``do`` called, with its arguments, before each call of a function."""
    real = getattr(owner, name)

    def both(*arguments: Any, **named: Any) -> Any:
        do(*arguments, **named)
        return real(*arguments, **named)

    setattr(owner, name, both)


def said(log: Path) -> list[str]:
    """The lines of a log, without libraries' bars, which were loaded here before the command could hush them."""
    return [part for line in log.read_text().splitlines() for part in line.split("\r") if part and "it/s]" not in part]


@pytest.fixture(scope="module")
def by_size(tmp_path_factory: pytest.TempPathFactory, tiny_gpt2: Path, text: Path) -> dict[int, Path]:
    """The same settings with one, two and three tasks: 20 steps a round, 6 forward passes a step."""
    found = {}
    for size in (1, 2, 3):
        folder = tmp_path_factory.mktemp(f"ranks-{size}")
        given = flags(tiny_gpt2, text, folder, grad_accum=6, steps=20, rounds=1, eval_steps=10, lr=1e-3)
        assert run(size, given, folder / "log") == [0] * size, (folder / "log0").read_text()
        found[size] = only_run(folder)
    return found


@pytest.mark.parametrize("size", [2, 3])
def test_losses_are_those_of_one_task(size: int, by_size: dict[int, Path]) -> None:
    one, several = (events(by_size[n], "evaluation") for n in (1, size))
    assert len(one) == len(several) == 2 * 3
    for a, b in zip(one, several, strict=True):
        assert (a["round"], a["step"]) == (b["round"], b["step"])
        for name in ("train_loss", "val_loss", "gradient_norm"):
            assert a[name] is b[name] is None or abs(a[name] - b[name]) < 1e-5, (name, a, b)


@pytest.mark.parametrize("size", [2, 3])
def test_only_the_lead_writes_and_its_tables_are_whole(size: int, by_size: dict[int, Path]) -> None:
    run_folder = by_size[size]
    log = run_folder.parents[1] / "log"
    assert "What became of the tracked weights" in Path(f"{log}0").read_text()
    assert [said(Path(f"{log}{rank}")) for rank in range(1, size)] == [[]] * (size - 1)
    assert sorted(path.name for path in run_folder.iterdir()) == sorted(path.name for path in by_size[1].iterdir())
    for name in ("rounds.csv", "watch.csv"):
        assert len(table(run_folder, name)) == len(table(by_size[1], name))


def show_masks(target: Path) -> Callable[[int], None]:
    """A patch: each rank tells of every mask that it trains under."""

    def patch(rank: int) -> None:
        from swlottery.lottery import masks as masking
        from swlottery.lottery.loop import Lottery

        def tell(run: Lottery, masks: Any, number: int) -> None:
            packed, _ = masking.pack(masks)
            content = b"".join(packed[name].numpy().tobytes() for name in sorted(packed))
            with open(f"{target}{rank}", "a") as file:
                file.write(f"{number} {hashlib.sha256(content).hexdigest()}\n")

        before(Lottery, "set_masks", tell)

    return patch


def test_every_rank_trains_under_the_same_masks(tiny_gpt2: Path, text: Path, tmp_path: Path) -> None:
    assert run(2, flags(tiny_gpt2, text, tmp_path), tmp_path / "log", show_masks(tmp_path / "masks")) == [0, 0]
    first, second = ((tmp_path / f"masks{rank}").read_text() for rank in (0, 1))
    assert first == second and len(set(first.split())) == 6


def test_identical_weights_give_identical_masks_on_one_two_and_three_processes(
    tiny_gpt2: Path, text: Path, tmp_path: Path
) -> None:
    """One step of a rate that moves nothing: the weights that are pruned are θ_0's."""
    found = set()
    for size in (1, 2, 3):
        given = flags(tiny_gpt2, text, tmp_path / str(size), grad_accum=6, steps=1, lr=0.0, rounds=3)
        (tmp_path / str(size)).mkdir()
        tell = show_masks(tmp_path / f"masks{size}-")
        assert run(size, given, tmp_path / "log", tell) == [0] * size, (tmp_path / "log0").read_text()
        found |= {(tmp_path / f"masks{size}-{rank}").read_text() for rank in range(size)}
    assert len(found) == 1


def test_ranks_that_differ_are_a_defect_that_ends_the_run(tiny_gpt2: Path, text: Path, tmp_path: Path) -> None:
    def apart(rank: int) -> None:
        def change(training: Training, step: int, *others: Any) -> None:
            if rank == 1 and step == 3:
                next(iter(training.parameters.values())).data[0, 0] += 1e-3

        before(Training, "step", change)

    codes = run(2, flags(tiny_gpt2, text, tmp_path), tmp_path / "log", apart)
    assert all(codes) and "rank 1 has other weights than rank 0" in (tmp_path / "log0").read_text()


def asked(
    number: signal.Signals, owner: Any, name: str, when: Callable[..., bool] = lambda *_: True
) -> Callable[[int], None]:
    """A patch: rank 1 alone is sent a signal when it comes to a function."""

    def patch(rank: int) -> None:
        def send(*arguments: Any, **named: Any) -> None:
            if rank == 1 and when(*arguments):
                os.kill(os.getpid(), number)

        before(owner, name, send)

    return patch


def test_a_resumed_run_of_two_tasks_ends_with_the_same_bits(tiny_gpt2: Path, text: Path, tmp_path: Path) -> None:
    given = {name: flags(tiny_gpt2, text, tmp_path / name) for name in ("alone", "stopped")}
    for name in given:
        (tmp_path / name).mkdir()
    assert run(2, given["alone"], tmp_path / "log") == [0, 0]
    once = asked(signal.SIGUSR1, Training, "step", lambda training, step, round_, *_: (round_, step) == (2, 3))
    assert run(2, given["stopped"], tmp_path / "log", once) == [75, 75], (tmp_path / "log1").read_text()
    assert "saved at step 4 of round 2" in (tmp_path / "log0").read_text()
    assert run(2, given["stopped"], tmp_path / "log") == [0, 0]
    assert traces(only_run(tmp_path / "stopped")) == traces(only_run(tmp_path / "alone"))


@pytest.mark.parametrize("name", ["checkpoint_2_2", "theta_0", "round_1.", "round.json", "settings", "status"])
def test_a_disk_that_is_full_ends_all_tasks_with_one_line(
    name: str, tiny_gpt2: Path, text: Path, tmp_path: Path
) -> None:
    """Only the lead writes; all of them stop at the same step, and it tells why."""

    def full(rank: int) -> None:
        def refuse(path: Path, fill: Any) -> None:
            if path.name.startswith(name):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        before(files, "write", refuse)

    given = flags(tiny_gpt2, text, tmp_path)
    assert run(2, given, tmp_path / "log", full) == [2, 2], (tmp_path / "log1").read_text()
    assert "No space left" in complaint(
        "\n".join(line for line in said(tmp_path / "log0") if line.startswith("swlottery: "))
    )
    assert said(tmp_path / "log1") == []


@pytest.mark.parametrize("where", ["a step", "an evaluation", "before the first step"])
def test_all_ranks_stop_together_wherever_one_is_asked(where: str, tiny_gpt2: Path, text: Path, tmp_path: Path) -> None:
    place = {
        "a step": (Training, "step"),
        "an evaluation": (Training, "evaluate"),
        "before the first step": (start_, "network"),
    }
    assert run(2, flags(tiny_gpt2, text, tmp_path), tmp_path / "log", asked(signal.SIGTERM, *place[where])) == [75, 75]
    assert ("nothing is lost" if "before" in where else "Stopped early") in (tmp_path / "log0").read_text()


def in_training(log: Path, seconds: float = 60) -> None:
    """Wait for the first line of evaluations."""
    until = time.monotonic() + seconds
    while not re.search(r"^ +3 ", Path(f"{log}0").read_text(), re.M):
        assert time.monotonic() < until, Path(f"{log}0").read_text()
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("how", "victim"),
    [
        (signal.SIGKILL, 1),
        (signal.SIGSTOP, 0),
        pytest.param(signal.SIGKILL, 0, marks=pytest.mark.slow),
        pytest.param(signal.SIGSTOP, 1, marks=pytest.mark.slow),
    ],
)
def test_a_rank_that_is_lost_ends_the_others_by_name(
    how: signal.Signals, victim: int, tiny_gpt2: Path, text: Path, tmp_path: Path
) -> None:
    given = flags(tiny_gpt2, text, tmp_path, grad_accum=6, steps=100_000, rank_timeout=5)
    started = start(3, given, tmp_path / "log")
    lost = started.pop(victim)
    try:
        in_training(tmp_path / "log")
        time.sleep(2.5)  # two signs of life
        os.kill(lost, how)
        begun = time.monotonic()
        assert ends(started, 60) == [1, 1]
        assert time.monotonic() - begun < 30  # of which 5 for the timeout; and a busy machine
    finally:
        os.kill(lost, signal.SIGKILL)
        ends([lost])
    said = "".join((tmp_path / f"log{rank}").read_text() for rank in range(3) if rank != victim)
    (line,) = [line for line in said.splitlines() if line.startswith("swlottery: ")]
    assert line.startswith(
        f"swlottery: rank {victim} (process {lost} on {socket.gethostname()}) gives no sign of life since"
    )
    assert re.search(r"since (the evaluation after )?step \d+ of round 1", line)


def test_a_rank_that_is_stuck_is_named(tiny_gpt2: Path, text: Path, tmp_path: Path) -> None:
    def stuck(rank: int) -> None:
        before(Training, "step", lambda training, step, *_: time.sleep(600 if rank == 1 and step == 3 else 0))

    lead, other = start(2, flags(tiny_gpt2, text, tmp_path, rank_timeout=3), tmp_path / "log", stuck)
    try:
        assert ends([lead], 90) == [1]
    finally:
        os.kill(other, signal.SIGKILL)
        ends([other])
    assert re.search(
        r"swlottery: rank 1 \(process \d+ on \S+\) is stuck since step 4 of round 1", (tmp_path / "log0").read_text()
    )


def test_bad_input_is_one_line_of_the_lead(tiny_gpt2: Path, text: Path, tmp_path: Path) -> None:
    given = flags(tiny_gpt2, text, tmp_path, grad_accum=3)
    assert run(2, given, tmp_path / "log") == [2, 2]
    line = complaint((tmp_path / "log0").read_text())
    assert "2 tasks cannot share 3 forward passes a step; the same step is --micro-batch 3 --grad-accum 2" in line
    assert said(tmp_path / "log1") == []
    assert not (tmp_path / "runs").exists()


def test_who_shares_a_step_and_who_cannot() -> None:
    for size in (1, 2, 4):
        Ranks(Place(0, size)).check(8, 4)
    with pytest.raises(BadInput, match=r"the same step is --micro-batch 2 --grad-accum 4"):
        Ranks(Place(0, 4)).check(8, 1)
    with pytest.raises(BadInput, match=r"a step of 6 sequences can be shared by 1, 2, 3, 6 tasks"):
        Ranks(Place(0, 4)).check(2, 3)


def test_where_the_ranks_come_from() -> None:
    step = {
        "SLURM_PROCID": "3",
        "SLURM_STEP_NUM_TASKS": "11",
        "SLURM_LOCALID": "1",
        "SLURM_STEP_TASKS_PER_NODE": "4(x2),3",
    }
    assert Place.of(step) == Place(3, 11, 1, 4)
    torchrun = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    assert Place.of(torchrun) == Place(1, 2, 1, 2)
    batch_shell = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0", "SLURM_TASKS_PER_NODE": "4"}
    assert Place.of(batch_shell) == Place.of({}) == Place(0, 1, 0, 1)
    assert Place.of(step | torchrun | {"TORCHELASTIC_RUN_ID": "none"}) == Place(1, 2, 1, 2), "srun torchrun"
    assert Place.of(step | torchrun) == Place(3, 11, 1, 4)
    pty = step | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_PTY_PORT": "41234", "SLURM_PTY_WIN_COL": "80"}
    assert Place.of(pty) == Place(0, 1, 0, 1), "the shell of srun --pty"
    assert Place.of(pty | {"MASTER_ADDR": "node1"}) == Place.of(pty, terminal=False) == Place(0, 11, 0, 4), "srun in it"
    for rank, size in (("3", "1"), ("0", "0"), ("-1", "2")):
        with pytest.raises(BadInput, match=f"no task {rank} of {size} can be"):
            Place.of({"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": "0"})


@pytest.mark.parametrize("missing", ["MASTER_ADDR", "MASTER_PORT"])
def test_tasks_that_know_no_place_to_meet_are_refused_at_once_in_one_line(
    missing: str, tiny_gpt2: Path, text: Path, tmp_path: Path
) -> None:
    given = flags(tiny_gpt2, text, tmp_path)
    assert run(2, given, tmp_path / "log", lambda rank: os.environ.pop(missing)) == [2, 2]
    line = complaint((tmp_path / "log0").read_text())
    assert line.startswith(f"swlottery: 2 tasks, and {missing} does not say where they meet: ") and "--ntasks=2" in line
    assert said(tmp_path / "log1") == []
    assert not (tmp_path / "runs").exists()


def test_that_they_did_not_meet_is_said_with_the_time_that_it_took(tiny_gpt2: Path, text: Path, tmp_path: Path) -> None:
    def nowhere(rank: int) -> None:
        os.environ["MASTER_PORT"] = "no port"

    assert run(2, flags(tiny_gpt2, text, tmp_path), tmp_path / "log", nowhere) == [1, 1]
    assert "rank 0 did not meet the other 1 in 0 s: " in (tmp_path / "log0").read_text()
