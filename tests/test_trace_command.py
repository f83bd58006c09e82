"""``swlottery trace`` on checkpoints in which a planted weight grows: the first above the bar is the right one."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from growing import STRENGTHS, checkpoints
from odd import model, refused, run
from swlottery.commands import trace as command
from swlottery.find import trace as tracing
from swlottery.models.coordinates import Coordinate

FIRST = next(nth for nth, strength in enumerate(STRENGTHS) if strength > 1)


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """Eight folders, and the weight that grows in them."""
    folder = tmp_path_factory.mktemp("grown")
    (folder / "t.txt").write_text("The quick brown fox jumps over the lazy dog, again and again.\n\n" * 100)
    return (*checkpoints(folder), folder / "t.txt")


def traced(grown, *flags: str, models=None):
    folders, _, text = grown
    few = ["--eval-text", str(text), "--eval-tokens", "640", "--device", "cpu", "--out", "out"]
    return run("trace", *map(str, models or folders), *few, *flags)


def test_the_first_step_above_the_bar(grown, here):
    """Given in any order: steps are read from the names. Table, log and figure say the same."""
    folders, place, _ = grown
    said = traced(grown, "--tokens-per-step", "1000000", models=folders[::-1])
    assert said.code == 0 and said.err == "", said
    rows = tracing.read(Path("out/trace.csv"))
    own = [row for row in rows if Coordinate.of(row) == place]
    assert [row["step"] for row in own] == [1, 2, 4, 8, 16, 32, 64, 128]
    assert [row["tokens"] for row in own] == [1_000_000 * row["step"] for row in own]
    assert [row["found"] for row in own] == [nth >= FIRST for nth in range(8)]
    ratios, sizes = [row["ratio"] for row in own], [abs(row["value"]) for row in own]
    assert ratios == sorted(ratios) and ratios[-1] > 3 * 40 and ratios[0] < 4
    assert sizes == sorted(sizes) and own[-1]["rank"] == 1 and own[-1]["share"] == pytest.approx(1, abs=0.05)
    assert all(row["low"] <= row["nll_difference"] <= row["high"] for row in own)
    summary = next(line for line in said.out.splitlines() if line.startswith(str(place)))
    assert "step32 (32M)" in summary
    assert "8, from step1 to step128" in said.out and "1 found: " + str(place) in said.out
    assert Path("out/trace.png").stat().st_size > 10_000


def test_a_second_start_does_nothing_again_and_sees_a_changed_checkpoint(grown, here, monkeypatch):
    folders = grown[0]
    copies = [shutil.copytree(folder, here / folder.name) for folder in folders[4:]]
    searched = []
    real = tracing.found_in
    monkeypatch.setattr(tracing, "found_in", lambda *given: searched.append(1) or real(*given))
    ends = traced(grown, models=copies)
    table = Path("out/trace.csv").read_bytes()
    assert ends.code == 0 and len(searched) == 4
    assert traced(grown, models=copies).code == 0
    assert len(searched) == 4 and Path("out/trace.csv").read_bytes() == table
    (copies[1] / "model.safetensors").write_bytes((copies[0] / "model.safetensors").read_bytes())
    said = traced(grown, models=copies)
    assert len(searched) == 5 and "step32 was looked at with another weights_sha256" in said.out
    assert [row["found"] for row in tracing.read(Path("out/trace.csv"))] == [False, False, True, True]
    said = traced(grown, "--kappa", "20", models=copies)
    assert len(searched) == 9 and "another kappa" in said.out
    damaged = next(Path("out").glob("step128-*.json"))
    damaged.write_text(damaged.read_text().replace("1", "2", 1))
    assert traced(grown, "--kappa", "20", models=copies).code == 0 and len(searched) == 10


@pytest.fixture(scope="module")
def alone(grown, tmp_path_factory) -> bytes:
    """The table of the last four, by a trace that nobody stopped."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("alone"))
        assert traced(grown, models=grown[0][4:]).code == 0
        return Path("out/trace.csv").read_bytes()


@pytest.mark.parametrize("where", ["_searched", "_look_up"])
def test_a_signal_stops_it_and_it_goes_on(where, grown, alone, here, monkeypatch):
    """In both passes: 75, what is done is kept, and the end is that of a trace that nobody stopped."""
    folders = grown[0][4:]
    real, calls = getattr(command.Tracing, where), []

    def signalled(*given):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*given)

    monkeypatch.setattr(command.Tracing, where, signalled)
    said = traced(grown, models=folders)
    assert said.code == 75 and "goes on from there" in said.out and not Path("out/trace.csv").exists()
    kept = [json.loads(path.read_text()) for path in Path("out").glob("*.json")]
    assert len(kept) == (2 if where == "_searched" else 4)
    assert traced(grown, models=folders).code == 0
    assert Path("out/trace.csv").read_bytes() == alone


def test_a_config_file_and_names_without_steps(grown, here):
    """The order given is the step; without any super weight the last leader is followed."""
    folders, _, text = grown
    for name, folder in zip("zay", folders, strict=False):
        shutil.copytree(folder, here / name)
    config = "model: [./z, ./a, ./y]\neval_tokens: 640\nout: from-file\ndevice: cpu\n"
    Path("trace.yaml").write_text(f"{config}eval_text: {text}\n")
    said = run("trace", "--config", "trace.yaml")
    assert said.code == 0, said
    rows = tracing.read(Path("from-file/trace.csv"))
    assert [(row["checkpoint"], row["step"]) for row in rows] == [("z", 0), ("a", 1), ("y", 2)]
    assert not any(row["found"] for row in rows) and {row["tokens"] for row in rows} == {None}
    assert "No super weight in any checkpoint" in said.out and Path("from-file/trace.png").exists()
    Path("trace.yaml").write_text("models: [./z]\n")
    refused(run("trace", "--config", "trace.yaml"), "unknown setting models: did you mean model?")


def test_the_folder_of_results_is_named_after_the_checkpoints(grown, here):
    for folder in grown[0][:2]:
        shutil.copytree(folder, here / "my run" / folder.name)
    said = run("trace", "my run/step1", "my run/step2", "--eval-tokens", "640", "--eval-text", str(grown[2]))
    assert said.code == 0 and Path("traces/my_run/trace.csv").exists(), said


@pytest.mark.parametrize("kind", ["olmo", "deepseek_v3"])
def test_a_model_without_a_row(kind, grown, here):
    """Before any weights are read it has the shapes that are compared; it is proved when it is loaded."""
    said = traced(grown, models=[model(here / name, kind) for name in ("step1", "step2")])
    assert said.code == 0, said
    assert [row["step"] for row in tracing.read(Path("out/trace.csv"))] == [1, 2]


@pytest.fixture(scope="module")
def odd_ones(tmp_path_factory) -> Path:
    """A folder with networks that do not belong together."""
    here = tmp_path_factory.mktemp("odd")
    model(here / "a"), model(here / "b"), (here / "empty").mkdir()
    model(here / "wide", n_inner=160), model(here / "deep", n_layer=4), model(here / "llama", "llama")
    model(here / "mixture", "mixtral"), model(here / "more", "mixtral", num_local_experts=5)
    shutil.copytree(here / "a", here / "t5")
    (here / "t5" / "config.json").write_text('{"model_type": "t5"}')
    return here


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give a MODEL with --revisions"),
        (["./a"], "two folders or more"),
        (["./a", "./a"], "./a stands twice"),
        (["org/m", "--revisions", "step1,step2,step1"], "step1 stands twice"),
        (["org/m", "--revisions", "step1"], "nothing to follow"),
        (["org/m", "--revisions", "step1,,step2"], "nothing to follow"),
        (["./a", "./b", "--revisions", "step1,step2"], "those of one model"),
        (["./a", "--revisions", "step1,step2"], "not on the hub"),
        (["./a", "./nowhere"], "no such file or folder: ./nowhere"),
        (["./a", "./b", "--eval-text", "none.txt"], "none.txt"),
        (["./a", "./b", "--kappa", "1"], "--kappa 1"),
        (["./a", "./b", "--eval-tokens", "10"], "--eval-tokens"),
        (
            ["./a", "./wide"],
            "wide is another network than a (gpt2, 3 layers of (64, 160); gpt2, 3 layers of (64, 128)",
        ),
        (["./a", "./deep"], "give checkpoints of one training"),
        (["./a", "./llama"], "(llama, 3 layers of"),
        (["./mixture", "./more"], "of (64, 128), 15 matrices; mixtral, 3 layers of (64, 128), 12 matrices)"),
        (["./a", "./empty"], "holds no model"),
        (["./a", "./t5"], "makes no model that transformers knows"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_refused(arguments, words, odd_ones, monkeypatch):
    """In one line, and nothing is written."""
    monkeypatch.chdir(odd_ones)
    before = sorted(odd_ones.rglob("*"))
    refused(run("trace", *arguments, "--device", "cpu"), words)
    assert sorted(odd_ones.rglob("*")) == before


def test_a_checkpoint_with_weights_that_are_not_finite(grown, here):
    """It is named; what was done before it is kept."""
    copies = [shutil.copytree(folder, here / folder.name) for folder in grown[0][4:7]]
    tensors = load_file(copies[1] / "model.safetensors")
    tensors["transformer.h.0.mlp.c_proj.weight"][0, 0] = torch.nan
    save_file(tensors, copies[1] / "model.safetensors", {"format": "pt"})
    refused(traced(grown, models=copies), "step32", "not finite")
    assert len(list(Path("out").glob("*.json"))) == 1


def test_two_at_once(grown, here):
    from swlottery.runtime import folder as folders

    with folders.held(here / "out"):
        refused(traced(grown), "is in use")
