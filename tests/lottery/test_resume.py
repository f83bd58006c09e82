"""A run that is killed goes on by being started again, and ends with the same bits (at length: tests/robust)."""

from __future__ import annotations

import importlib
import json
import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from lottery.runs import complaint, draw, flags, forked, only_run, traces

PHASES = {
    "step": ("swlottery.lottery.training", "Training", "step"),
    "evaluation": ("swlottery.lottery.training", "Training", "evaluate"),
    "pruning": ("swlottery.lottery.prune", "Pruner", "prune"),
    "writing": ("swlottery.runtime.files", None, "write"),
    "data": ("swlottery.data.tokenize", None, "write_shard"),
    "finder": ("swlottery.lottery.loop", None, "look"),
    "checkpoint": ("swlottery.runtime.checkpoint", None, "save"),
    "hash": ("swlottery.runtime.checkpoint", None, "file_sha256"),
    "hashes": ("swlottery.runtime.sums", None, "write"),
}


def kill_in(phase: str, number: int, delay: float):
    """A patch for the child: at the ``number``-th entry into the phase, SIGKILL ``delay`` seconds later."""

    def patch() -> None:
        module_name, owner, name = PHASES[phase]
        module = importlib.import_module(module_name)
        place = getattr(module, owner) if owner else module
        real, entered = getattr(place, name), Counter()

        def watched(*args, **kwargs):
            entered["times"] += 1
            if entered["times"] == number:
                if delay:
                    threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
                else:
                    os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        setattr(place, name, watched)

    return patch


def kill_when_written(phase: str, number: int):
    """The same as the ``number``-th entry into the phase begins, but with no checkpoint on its way."""

    def patch() -> None:
        from swlottery.runtime.checkpoint import Writer

        real = Writer.save

        def save(self, *args):
            real(self, *args)
            self.wait()

        Writer.save = save
        kill_in(phase, number, 0)()

    return patch


def slow_disk() -> None:
    """A patch for the child: a checkpoint takes longer than the steps beside it."""
    from swlottery.runtime import checkpoint

    real = checkpoint.save

    def save(*arguments):
        time.sleep(0.1)
        real(*arguments)

    checkpoint.save = save


def count_steps(ledger: Path):
    """A patch for the child: every step that it takes is told to a file that no resume cuts."""

    def patch() -> None:
        from swlottery.lottery.training import Training

        real = Training.step

        def counted(self, step, round_, see=None):
            result = real(self, step, round_, see)
            with open(ledger, "a") as file:
                file.write(f"{round_}:{step}\n")
            return result

        Training.step = counted

    return patch


def assert_same(ends: dict, alone: dict) -> None:
    """Equal in every bit; a failure shows the first line that differs, not all of them."""
    for name in ("metrics", "rounds", "watch"):
        mine, other = (x[name].splitlines() if name == "watch" else x[name] for x in (ends, alone))
        for one, two in zip(mine, other, strict=False):
            assert one == two, name
        assert len(mine) == len(other), name
    assert ends == alone


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, tiny_gpt2: Path, text: Path) -> dict:
    """A run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("alone")
    assert forked(flags(tiny_gpt2, text, folder), folder / "log") == 0, (folder / "log").read_text()
    return traces(only_run(folder))


def interrupted(
    tiny_gpt2: Path, text: Path, folder: Path, kills: list, monkeypatch, also=lambda: None, more=(), **changes
) -> tuple[dict, Counter]:
    monkeypatch.setenv("SWLOTTERY_CACHE", str(folder / "cache"))
    ledger = folder / "steps"
    arguments = flags(tiny_gpt2, text, folder, *more, **changes)

    def both(kill):
        def patch() -> None:
            count_steps(ledger)()
            also()
            kill()

        return patch

    for kill in kills:
        assert forked(arguments, folder / "log", both(kill)) == -signal.SIGKILL, (folder / "log").read_text()
    assert forked(arguments, folder / "log", both(lambda: None)) == 0, (folder / "log").read_text()
    return traces(only_run(folder)), Counter(ledger.read_text().split())


@pytest.mark.parametrize(
    ("phase", "number", "delay"),
    [
        ("step", 8, 0),
        ("evaluation", 3, 0),
        ("pruning", 5, 0.02),
        ("writing", 7, 0.01),
        ("checkpoint", 5, 0.003),
        ("hash", 2, 0),
    ],
)
def test_a_killed_run_ends_with_the_same_bits(phase, number, delay, alone, tiny_gpt2, text, tmp_path, monkeypatch):
    ends, steps = interrupted(tiny_gpt2, text, tmp_path, [kill_in(phase, number, delay)], monkeypatch)
    assert_same(ends, alone)
    assert sum(steps.values()) - len(steps) <= 4, "one checkpoint may be unfinished, and two steps lie before each"
    assert len(steps) == 18


def test_one_run_killed_again_and_again(alone, tiny_gpt2, text, tmp_path, monkeypatch):
    kills = [kill_in("step", 3, 0), kill_in("writing", 4, 0), kill_in("pruning", 2, 0), kill_in("step", 4, 0.001)]
    ends, _ = interrupted(tiny_gpt2, text, tmp_path, kills, monkeypatch, also=draw)
    assert_same(ends, alone)
    figures = {"magnitude.png", "perplexity.png", "round_1.png", "round_2.png", "round_3.png"}
    assert {path.name for path in (tmp_path / "plots").iterdir()} == figures


@pytest.mark.parametrize(
    ("rounds", "phases"),
    [
        (2, [("pruning", 1), ("writing", 4), ("step", 2), ("step", 5), ("pruning", 2)]),
        (1, [("evaluation", 1), ("step", 3), ("finder", 1), ("writing", 6)]),
    ],
)
def test_a_run_that_is_pruned_at_the_start_and_killed(rounds, phases, tiny_gpt2, text, tmp_path, monkeypatch):
    """In the prune at the start, as m_0 is written, in the first steps, in the prune of a round, at the end."""
    more = ["--prune-at-start", "--follow", "1,2,3", "--rounds", str(rounds)]
    whole = tmp_path / "whole"
    assert forked(flags(tiny_gpt2, text, whole, *more), tmp_path / "log") == 0, (tmp_path / "log").read_text()
    kills = [kill_in(phase, number, 0) for phase, number in phases]
    (tmp_path / "killed").mkdir()
    ends, steps = interrupted(tiny_gpt2, text, tmp_path / "killed", kills, monkeypatch, more=more)
    assert_same(ends, traces(only_run(whole)))
    assert len(steps) == 6 * rounds and [row["round"] for row in ends["rounds"]] == ["0", "1"][:rounds]
    assert all(row["pruned"] for row in ends["rounds"]) and len(ends["masks"]) == rounds


@pytest.mark.parametrize(
    "step", [1, 2, 4, 5], ids=["at a step", "before an evaluation", "at another step", "at the last"]
)
def test_a_signal_saves_and_exits_75(step, alone, tiny_gpt2, text, tmp_path, monkeypatch):
    """No step is done again, wherever the signal comes: six steps a round, an evaluation behind the third and the last.

    However long a checkpoint takes: the exit waits for it.
    """
    monkeypatch.setenv("SWLOTTERY_CACHE", str(tmp_path / "cache"))

    def patch() -> None:
        from swlottery.lottery.training import Training

        slow_disk()
        real = Training.step

        def signalled(self, number, round_, see=None):
            if (round_, number) == (2, step):
                os.kill(os.getpid(), signal.SIGTERM)
            return real(self, number, round_, see)

        Training.step = signalled

    arguments = flags(tiny_gpt2, text, tmp_path, checkpoint_steps=1000)
    assert forked(arguments, tmp_path / "log", patch) == 75, (tmp_path / "log").read_text()
    said = (tmp_path / "log").read_text()
    assert "goes on from there" in said and f"saved at step {step + 1} of round 2" in said
    ledger = tmp_path / "steps"
    assert forked(arguments, tmp_path / "log", count_steps(ledger)) == 0
    assert ledger.read_text().split()[0] == (f"2:{step + 1}" if step < 5 else "3:0")
    assert_same(traces(only_run(tmp_path)), alone)


@pytest.mark.parametrize("number", [1, 2, 3, 5, 6])
def test_a_signal_in_an_evaluation(number, alone, tiny_gpt2, text, tmp_path, monkeypatch):
    """It is left at once. What was trained up to it stays trained, except in round 1's first and before a prune."""
    monkeypatch.setenv("SWLOTTERY_CACHE", str(tmp_path / "cache"))

    def patch() -> None:
        from swlottery.lottery.training import Training

        real, entered = Training.evaluate, Counter()

        def signalled(self, windows, asked):
            entered["times"] += 1
            if entered["times"] == number:
                os.kill(os.getpid(), signal.SIGTERM)
            return real(self, windows, asked)

        Training.evaluate = signalled

    arguments = flags(tiny_gpt2, text, tmp_path, checkpoint_steps=1000)
    assert forked(arguments, tmp_path / "log", patch) == 75, (tmp_path / "log").read_text()
    ledger = tmp_path / "steps"
    assert forked(arguments, tmp_path / "log", count_steps(ledger)) == 0
    began = {1: "1:0", 2: "1:3", 3: "1:0", 5: "2:3", 6: "2:0"}[number]
    assert ledger.read_text().split()[0] == began
    assert_same(traces(only_run(tmp_path)), alone)


def test_a_damaged_checkpoint_is_named_and_the_older_one_used(alone, tiny_gpt2, text, tmp_path, monkeypatch):
    monkeypatch.setenv("SWLOTTERY_CACHE", str(tmp_path / "cache"))
    arguments = flags(tiny_gpt2, text, tmp_path)
    assert forked(arguments, tmp_path / "log", kill_when_written("step", 12)) == -signal.SIGKILL
    checkpoints = only_run(tmp_path) / "checkpoints"
    assert sorted(path.stem for path in checkpoints.glob("*.json")) == ["checkpoint_2_2", "checkpoint_2_4"]
    newest = checkpoints / "checkpoint_2_4.safetensors"
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(content)
    ledger = tmp_path / "steps"
    assert forked(arguments, tmp_path / "second", count_steps(ledger)) == 0
    assert "checkpoint_2_4" in (tmp_path / "second").read_text()
    assert ledger.read_text().split()[0] == "2:2"
    assert_same(traces(only_run(tmp_path)), alone)


def test_a_finished_run_says_so_and_changes_nothing(tiny_gpt2, text, tmp_path, monkeypatch):
    monkeypatch.setenv("SWLOTTERY_CACHE", str(tmp_path / "cache"))
    arguments = flags(tiny_gpt2, text, tmp_path, rounds=1, steps=2)
    assert forked(arguments, tmp_path / "log") == 0, (tmp_path / "log").read_text()
    run = only_run(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file() and path.name != "lock"}
    assert forked(arguments, tmp_path / "again") == 0
    assert "is done" in (tmp_path / "again").read_text()
    after = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file() and path.name != "lock"}
    assert after == before


def test_a_run_in_use_is_refused(tiny_gpt2, text, tmp_path, monkeypatch):
    monkeypatch.setenv("SWLOTTERY_CACHE", str(tmp_path / "cache"))
    arguments = flags(tiny_gpt2, text, tmp_path, rounds=1, steps=2)

    def second() -> None:
        from swlottery.lottery.training import Training

        real = Training.step

        def step(self, *args):
            Training.step = real
            assert forked(arguments, tmp_path / "second") == 2
            return real(self, *args)

        Training.step = step

    assert forked(arguments, tmp_path / "log", second) == 0, (tmp_path / "log").read_text()
    said = (tmp_path / "second").read_text()
    assert "is in use by process" in said.splitlines()[-1]


def test_other_threads_of_the_machine_do_not_change_a_run(tiny_gpt2, text, tmp_path, monkeypatch):
    """Threads are a setting, kept for the whole run, whatever the machine offers when it is taken up again."""
    import json

    monkeypatch.setenv("SWLOTTERY_CACHE", str(tmp_path / "cache"))
    arguments = flags(tiny_gpt2, text, tmp_path, rounds=1, steps=2, threads=0)

    def two_cores() -> None:
        from swlottery.runtime import environment

        environment.cores = lambda: 2
        kill_in("step", 2, 0)()

    assert forked(arguments, tmp_path / "log", two_cores) == -signal.SIGKILL

    def one_core() -> None:
        from swlottery.runtime import environment

        environment.cores = lambda: 1

    assert forked(arguments, tmp_path / "log", one_core) == 0, (tmp_path / "log").read_text()
    assert json.loads((only_run(tmp_path) / "environment.json").read_text())["threads"] == 2


def test_a_run_of_another_version_is_refused_with_what_to_do(tiny_gpt2, text, tmp_path, monkeypatch, capsys):
    """Its checkpoints have another schema, or none; nothing of it is touched."""
    import json

    from swlottery.cli import main

    monkeypatch.setenv("SWLOTTERY_CACHE", str(tmp_path / "cache"))
    arguments = flags(tiny_gpt2, text, tmp_path)
    assert forked(arguments, tmp_path / "log", kill_when_written("step", 12)) == -signal.SIGKILL
    run = only_run(tmp_path)
    for manifest in (run / "checkpoints").glob("*.json"):
        content = json.loads(manifest.read_text())
        del content["schema"], content["own_sha256"]
        manifest.write_text(json.dumps(content))
    before = {name: (run / name).read_bytes() for name in ("metrics.jsonl", "rounds.csv", "watch.csv")}
    capsys.readouterr()
    assert main(arguments) == 2
    said = complaint(capsys.readouterr().err)
    assert str(run) in said and "another version" in said and "--runs" in said
    assert {name: (run / name).read_bytes() for name in before} == before


def test_the_status_of_a_run_that_goes_on_knows_where_it_is_and_what_it_tracks(tiny_gpt2, text, tmp_path, monkeypatch):
    """From its first write on; also where going on is refused, since the text is another."""
    monkeypatch.setenv("SWLOTTERY_CACHE", str(tmp_path / "cache"))

    def stop() -> None:
        from swlottery.lottery.training import Training

        real = Training.step

        def signalled(self, number, round_, see=None):
            if (round_, number) == (2, 3):
                os.kill(os.getpid(), signal.SIGTERM)
            return real(self, number, round_, see)

        Training.step = signalled

    def keep(writes: Path):
        def patch() -> None:
            from swlottery.runtime import folder

            real = folder.write_status

            def kept(run, state, content):
                with open(writes, "a") as file:
                    file.write(json.dumps([state, *(content[name] for name in ("round", "step", "followed"))]) + "\n")
                real(run, state, content)

            folder.write_status = kept

        return patch

    own = tmp_path / "text.txt"
    own.write_text(Path(text).read_text())
    arguments = flags(tiny_gpt2, own, tmp_path, checkpoint_steps=1000)
    assert forked(arguments, tmp_path / "log", stop) == 75
    own.write_text(Path(text).read_text() + " Another sentence, which is not the one before.")
    assert forked(arguments, tmp_path / "log", keep(tmp_path / "refused")) == 2
    assert (tmp_path / "refused").read_text() == '["failed", 2, 4, 1]\n'
    own.write_text(Path(text).read_text())
    assert forked(arguments, tmp_path / "log", keep(tmp_path / "resumed")) == 0
    assert (tmp_path / "resumed").read_text().splitlines()[0] == '["running", 2, 4, 1]'
