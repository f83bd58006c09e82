"""Every kind of input: which files are mutated, how, and what the commands may answer."""

from __future__ import annotations

import csv
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fuzz_bases
import fuzz_binary as binary
import fuzz_mutations as mutations
import fuzz_text as text
import yaml
from fuzz_bases import FIND, TRAIN
from fuzz_mutations import mutation
from fuzz_worker import LONGEST, REFUSED, RIGHT, Kind, Said, Wrong, command

import odd
import swlottery
from swlottery import BadInput, cli
from swlottery.runtime import checkpoint

DRAWN = 20
"""Of so many cases one has its figures drawn, which would else be most of the time."""
RUN = ["--runs", "runs", "--plots", "plots"]
_drawing = False


def verdict(*answers: Said) -> str:
    """Refused where one was."""
    return REFUSED if any(said.code for said in answers) else RIGHT


def _draw(number: int) -> None:
    global _drawing
    _drawing = number % DRAWN == 0


def _stored(path: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    return content


# Models


def _find(model: str, number: int, base: str = "", *flags: str) -> Said:
    """Find; the weights have to be those of the record ``base``."""
    _draw(number)
    said = command(*FIND, "--model", model, "--out", "out.json", *flags)
    if base and not said.code and _stored("out.json")["weights_sha256"] != _stored(base)["weights_sha256"]:
        raise Wrong("other weights than the stored ones, and nothing said")
    return said


def _model(names: Sequence[str], number: int) -> str:
    """A model's config or tokenizer: found in; its tokens made; trained."""
    model = Path(names[0]).parts[0]
    if number % 8 == 6:
        return verdict(command("prepare", "--model", model, "--data", "t.txt", "--context", "16"))
    if number % 8 == 7:
        _draw(number)
        return verdict(command(*TRAIN, "--model", model, *RUN, writes=["runs/", "plots/"]))
    return verdict(_find(model, number, f"{model}.json"))


def _weights(names: Sequence[str], number: int) -> str:
    """Weights: a record is that of the same ones alone."""
    model = Path(names[0]).parts[0]
    said = command("find", "--check", "m.json", "--model", model)
    return verdict(said, _find(model, number, "" if said.code else "m.json")) if number % 4 == 0 else verdict(said)


def _gguf(names: Sequence[str], number: int) -> str:
    if number % 8 == 0:
        return verdict(command("prepare", "--model", "g.gguf", "--data", "t.txt", "--context", "16"))
    return verdict(command("find", "--check", "g.json", "--model", "g.gguf"))


def _prompts(names: Sequence[str], number: int) -> str:
    said = _find("m", number, "q.json", "--prompt-file", "p.txt")
    if not said.code:
        lines = Path("p.txt").read_bytes().decode("utf-8-sig").replace("\r\n", "\n").split("\n")
        if _stored("out.json")["prompts"] != list(dict.fromkeys(line for line in lines if line.strip())):
            raise Wrong("other prompts than the file's lines, and nothing said")
    return verdict(said)


# Settings and records


def _config(names: Sequence[str], number: int) -> str:
    """A config: its tokens made; every eighth trained with, in small sizes."""
    said = _strict("c.yaml", command("prepare", "--config", "c.yaml"))
    if said.code or number % 8:
        return verdict(said)
    _draw(number)
    return verdict(command(*TRAIN, "--config", "c.yaml", *RUN, writes=["runs/", "plots/"]))


def _study(names: Sequence[str], number: int) -> str:
    return verdict(_strict("s.yaml", command("sweep", "s.yaml", "--dry-run")))


def _strict(path: str, said: Said) -> Said:
    """What was said; not one mapping of a file that was accepted has a key twice."""
    nodes = [] if said.code else [yaml.compose(Path(path).read_text(encoding="utf-8"))]
    for node in nodes:  # which grows
        if isinstance(node, yaml.MappingNode):
            keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            if len(set(keys)) < len(keys):
                raise Wrong("a key twice, and nothing said")
            nodes += [value for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode) and len(nodes) < 10_000:
            nodes += node.value
    return said


def _record(names: Sequence[str], number: int) -> str:
    """A record: read by the library, by both commands, and as the one that a new one stands beside or replaces."""
    record: Any = None
    try:
        record = swlottery.load_record("r.json")
    except BadInput as error:
        if len(str(error)) > LONGEST:
            raise Wrong("a long refusal", str(error)[:2000]) from None
    said = command("find", "--model", "m", "--check", "r.json")
    if not said.code and (record is None or record["weights_sha256"] != _stored("base.json")["weights_sha256"]):
        raise Wrong("a record of another network, and nothing said")
    _draw(number)
    if number % 8 == 0 or (record is not None and number % 3 == 0):
        return verdict(command(*TRAIN, "--super-weights", "r.json", *RUN, writes=["runs/", "plots/"]))
    if number % 8 == 1:
        return verdict(command(*FIND, "--model", "m", "--out", "r.json"))
    return verdict(said)


# Runs


def _checkpoint(names: Sequence[str], number: int) -> str:
    """A damaged checkpoint is passed over. The run goes on where it is not, and else every fourth time."""
    damaged = Path(names[0])
    newest = checkpoint.newest(damaged.parent, lambda complaint: None)
    return _resume(names, number) if newest in (None, damaged.with_suffix(".json")) or number % 4 == 0 else RIGHT


def _resume(names: Sequence[str], number: int) -> str:
    """A stopped run goes on, and ends with the bits of one that was left alone."""
    _draw(number)
    said = command(*TRAIN, *RUN, writes=["runs/", "plots/"])
    if not said.code and fuzz_bases.bits(Path("runs")) != Path("bits").read_text():
        raise Wrong("other bits than those of the undisturbed run")
    return verdict(said)


def _table(names: Sequence[str], number: int) -> str:
    """A table of a run: for the report and for status; now and then, of a run that was stopped, for the run itself."""
    folder = Path(names[0]).parts[0]
    if folder == "runs" and number % 10 == 1:
        return _resume(names, number)
    said = _report(folder, number)
    if not said.code and list(Path(folder).glob("*/SHA256SUMS")):
        (row,) = csv.DictReader(Path("page_tables/runs.csv").read_text(encoding="utf-8").splitlines())
        if row["state"] == "finished" and not row["message"]:
            raise Wrong("a changed file of a finished run, and nothing said", str(row))
    return verdict(said, command("status", folder))


def _tables(names: Sequence[str], number: int) -> str:
    return verdict(_report("tables", number))


def _report(folder: str, number: int) -> Said:
    """A report that answers every sixth question."""
    from swlottery.report.page import questions

    _draw(number)
    everything = list(questions.QUESTIONS)
    questions.QUESTIONS[:] = everything[number % 6 :: 6]
    try:
        return command("report", folder, "--out", "page.html")
    finally:
        questions.QUESTIONS[:] = everything


# All of them


def kinds(folder: Path) -> list[Kind]:
    """All kinds, with their sound files made in ``folder``."""
    _cheaper()
    fuzz_bases.make(folder)
    (done,) = (folder / "runs" / "done").iterdir()
    checkpoints = (folder / "runs" / "runs" / done.name / "checkpoints").iterdir()
    saved = [f"runs/{done.name}/checkpoints/{path.name}" for path in sorted(checkpoints)]
    both = [f"runs/{done.name}", f"runs/{done.name}", f"done/{done.name}"]
    tables = [path.name for path in sorted((folder / "tables" / "tables").iterdir())]
    shards = [f"s/{path.name}" for path in sorted((folder / "weights" / "s").glob("*.safetensors*"))]
    json_, csv_ = mutations.changed_json, text.changed_csv
    of = [  # name, folder, files, change of what they mean, check
        ("config", "models", ["gpt2/config.json", "llama/config.json"], json_, _model),
        (
            "tokenizer",
            "models",
            ["gpt2/tokenizer.json", "llama/tokenizer.json", "gpt2/tokenizer_config.json"],
            json_,
            _model,
        ),
        ("safetensors", "weights", ["m/model.safetensors"] * 3 + shards, _by_suffix, _weights),
        ("gguf", "gguf", ["g.gguf"], binary.changed_gguf, _gguf),
        ("yaml-config", "settings", ["c.yaml"], text.changed_yaml, _config),
        ("yaml-study", "settings", ["s.yaml"], text.changed_yaml, _study),
        ("record", "record", ["r.json"], json_, _record),
        ("checkpoint", "runs", saved, _by_suffix, _checkpoint),
        ("metrics", "runs", [f"{run}/metrics.jsonl" for run in both], mutations.changed_lines, _table),
        ("watch", "runs", [f"{run}/watch.csv" for run in both], csv_, _table),
        ("rounds", "runs", [f"{run}/rounds.csv" for run in both], csv_, _table),
        ("tables", "tables", [f"tables/{name}" for name in tables], csv_, _tables),
        ("prompts", "prompts", ["p.txt"], None, _prompts),
    ]
    return [Kind(name, folder / place, files, mutation(change), check) for name, place, files, change, check in of]


def _by_suffix(draw: mutations.Draw, base: bytes) -> bytes:
    change = mutations.changed_json if base.lstrip()[:1] == b"{" else binary.changed_safetensors
    return change(draw, base)


def _cheaper() -> None:
    """Draw only where `_drawing` says so, but read a run's files as for its figures; a short built-in text."""
    from swlottery.data import builtin
    from swlottery.report.figures import find, train
    from swlottery.report.page import pages
    from swlottery.report.run_files import read_run

    def sometimes(module: Any, name: str, instead: Callable[..., Any]) -> None:
        real = getattr(module, name)
        setattr(module, name, lambda *args, **kwargs: (real if _drawing else instead)(*args, **kwargs))

    cli.parser = functools.cache(cli.parser)
    builtin.docstrings = lambda: [odd.TEXT]
    sometimes(find, "draw", lambda record, folder: [])
    sometimes(train, "draw_round", lambda run, plots, round: [read_run(run).watch, plots][1])
    sometimes(train, "draw_run", lambda run, plots: [plots for _ in read_run(run).watch.columns[:1]])
    sometimes(pages, "svg", lambda picture, page: "")
