"""One bit of one file is another: the file is named and not used, or the run ends with the right bits all the same."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lottery.runs import flags, only_run, traces
from swlottery import api
from swlottery.cli import main
from swlottery.config import TrainSettings
from swlottery.errors import BadInput
from swlottery.lottery.start import tokenizer_and_context
from swlottery.runtime import sums

REWRITTEN = {"settings.json", "status.json", "lock"}
"""Every start writes these anew, and reads nothing from them that counts."""
SHORT = {"steps": 4, "rounds": 1, "rewind_step": 1, "eval_steps": 2, "checkpoint_steps": 1}
STOPPED = """settings.json environment.json metrics.jsonl rounds.csv watch.csv status.json lock theta_0.safetensors
theta_k.safetensors masks/round_0.safetensors masks/round_1.safetensors round_1/config.json round_1/model.safetensors
round_1/last_step.safetensors round_1/round.json round_1/tokenizer.json round_1/tokenizer_config.json
round_1/generation_config.json checkpoints/checkpoint_2_2.json checkpoints/checkpoint_2_2.safetensors
checkpoints/checkpoint_2_3.json checkpoints/checkpoint_2_3.safetensors""".split()  # noqa: SIM905
FINISHED = [name for name in STOPPED if not name.startswith("checkpoints/")] + [
    name.replace("round_1/", "final/") for name in STOPPED if name.startswith("round_1/") and "_step" not in name
    and "round.json" not in name
] + ["final/README.md", sums.NAME]  # fmt: skip
TABLES = ("metrics.jsonl", "rounds.csv", "watch.csv")
NEEDED = (*(name for name in STOPPED if "round_" in name), "theta_k.safetensors", *TABLES)
"""Every later checkpoint needs these. Those of them that are not tables are never made again."""
PARENTS = [name for name in FINISHED if name.startswith("round_1/")] + [
    *("settings.json", "environment.json", "metrics.jsonl", "theta_k.safetensors", "masks/round_0.safetensors")
]
"""What a branch reads."""


def flip(path: Path, part: float, bit: int) -> None:
    """Change one bit. part: 0, the first byte, to 1, the last one."""
    content = bytearray(path.read_bytes())
    content[round(part * (len(content) - 1))] ^= 1 << bit
    path.write_bytes(content)


def somewhere(name: str) -> tuple[float, int]:
    """A place that is drawn from the file's name."""
    draw = random.Random(name)
    return draw.random(), draw.randrange(8)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_gpt2, text, no_figures) -> Path:
    """A finished run in runs/, and in stopped/ the same as it was in the third step of round 2."""
    from swlottery.commands.keeper import FolderKeeper

    root, real = tmp_path_factory.mktemp("flips"), FolderKeeper.boundary

    def boundary(self, progress, only_if_asked):
        if (progress.position.round, progress.position.step) == (2, 3):
            self.asked = lambda: True
        real(self, progress, only_if_asked)

    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SWLOTTERY_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        with patched.context() as stopping:
            stopping.setattr(FolderKeeper, "boundary", boundary)
            assert main(flags(tiny_gpt2, text, root, **SHORT)) == 75
        shutil.copytree(only_run(root), root / "stopped" / only_run(root).name)
        assert main(flags(tiny_gpt2, text, root, **SHORT)) == 0
    return root


def ends(run: Path) -> dict:
    return traces(run) | {path.name: path.read_bytes() for path in run.glob("theta_*")}


def everything(run: Path) -> dict:
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "lock"}


def test_these_are_all_files(whole):
    for names, run in ((STOPPED, only_run(whole).parents[1] / "stopped"), (FINISHED, whole / "runs")):
        (folder,) = run.iterdir()
        assert sorted(names) == sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def goes_on(name: str, part: float, bit: int, whole: Path, model: Path, text: Path, folder: Path, capsys) -> None:
    """Start a stopped run again that has one bit changed."""
    run = folder / "runs" / only_run(whole).name
    shutil.copytree(whole / "stopped" / run.name, run)
    before = (run / name).read_bytes()
    flip(run / name, part, bit)
    unread = name in REWRITTEN or "checkpoint_2_2" in name  # the older one
    harmless = unread or _says_the_same(run / name, before)
    begun = everything(run)
    capsys.readouterr()
    code = main(flags(model, text, folder, **SHORT))
    out, err = capsys.readouterr()
    said = " ".join((out + err).split())
    assert harmless or f"{name.removesuffix('.json').removesuffix('.safetensors')}" in said, said
    if code == 2 and name in NEEDED:
        assert f"{run / name} is damaged" in err.splitlines()[-1] and everything(run) == begun
        (run / name).write_bytes(before)  # the copy
        assert main(flags(model, text, folder, **SHORT)) == 0
    assert (code == 0 or name in NEEDED) and ends(run) == ends(only_run(whole))
    assert code == 2 or name not in NEEDED or name in TABLES
    sums.check(run)


def _says_the_same(path: Path, before: bytes) -> bool:
    """Whether a changed JSON file still says what it said: the hash in it was changed, or a blank."""
    try:
        now, then = sums.read_sealed(path), sums.unsealed(json.loads(before))
    except ValueError:
        return False
    return b"own_sha256" in before and now.items() >= then.items()


@pytest.mark.parametrize("name", STOPPED)
def test_a_stopped_run_goes_on_from_what_is_sound(name, whole, tiny_gpt2, text, tmp_path, capsys):
    goes_on(name, *somewhere(name), whole, tiny_gpt2, text, tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("part", [0, 0.5, 1, None])
@pytest.mark.parametrize("name", STOPPED)
def test_a_stopped_run_wherever_the_bit_is(name, part, whole, tiny_gpt2, text, tmp_path, capsys):
    @settings(max_examples=1 if part is not None else 5, deadline=None)
    @given(st.floats(0, 1) if part is None else st.just(part), st.integers(0, 7))
    def one(part, bit):
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)
        goes_on(name, part, bit, whole, tiny_gpt2, text, tmp_path, capsys)

    one()


@pytest.mark.parametrize("name", FINISHED)
def test_of_a_finished_run_every_bit_counts(name, whole):
    run, content = only_run(whole), (only_run(whole) / name).read_bytes()

    @settings(max_examples=20, deadline=None)
    @given(st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0, 1), st.integers(0, 7))
    def one(part, bit):
        flip(run / name, part, bit)
        try:
            if name not in ("lock", "status.json"):
                with pytest.raises(BadInput, match=name):
                    sums.check(run)
                with pytest.raises(BadInput, match=name):
                    sums.check(run / name)
            elif name == "status.json" and not _says_the_same(run / name, content):
                assert api_status(run) == {}
        finally:
            (run / name).write_bytes(content)

    one()


def api_status(run: Path) -> dict:
    from swlottery.runtime.folder import read_status

    return read_status(run)


@pytest.mark.parametrize("name", FINISHED)
def test_a_finished_run_started_again_names_it(name, whole, tiny_gpt2, text, tmp_path, capsys):
    run = tmp_path / "runs" / only_run(whole).name
    shutil.copytree(only_run(whole), run)
    flip(run / name, 0.3, 1)
    capsys.readouterr()
    code = main(flags(tiny_gpt2, text, tmp_path, **SHORT))
    out, err = capsys.readouterr()
    if name in ("status.json", "lock"):
        assert code == 0 and "is done" in out and (name == "lock" or name in out)
        assert api_status(run)["state"] == "finished" and ends(run) == ends(only_run(whole))
    else:
        assert code == 2 and f"{run / name} is damaged" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("kind", "name"),
    [("runs", name) for name in PARENTS] + [("stopped", name) for name in PARENTS if name.endswith("safetensors")],
)
def test_no_branch_of_a_damaged_run(kind, name, whole, tiny_gpt2, text, tmp_path, capsys):
    parent = tmp_path / "parent"
    shutil.copytree(whole / kind / only_run(whole).name, parent)
    flip(parent / name, *somewhere(name))
    capsys.readouterr()
    changes = {**SHORT, "prune_rate": 0.1, "from_round_1": parent}
    assert main(flags(tiny_gpt2, text, tmp_path, **changes)) == 2
    assert f"{parent / name} is damaged" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("name", [name for name in FINISHED if name.startswith(("final/", "round_1/"))])
def test_no_model_is_read_from_a_damaged_folder(name, whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(only_run(whole), run)
    flip(run / name, *somewhere(name))
    (tmp_path / "link").symlink_to(run / name.partition("/")[0])
    for model in (run / name.partition("/")[0], tmp_path / "link"):
        with pytest.raises(BadInput, match="is damaged"):
            api.find(str(model), eval_tokens=640, controls=2, null_draws=3, device="cpu")
        scratch = {"start": "scratch", "model": "gpt2-mini", "tokenizer": str(model)}
        for chosen in (TrainSettings(model=str(model)), TrainSettings(**scratch)):
            with pytest.raises(BadInput, match=f"{name} is damaged"):
                tokenizer_and_context(chosen)


def test_masks_are_read_where_they_are_sound(whole, tmp_path):
    for kind in ("runs", "stopped"):
        run = tmp_path / kind
        shutil.copytree(whole / kind / only_run(whole).name, run)
        assert api.load_masks(run, 1)
        flip(run / "masks" / "round_1.safetensors", 1, 0)
        with pytest.raises(BadInput, match=r"round_1.safetensors is damaged"):
            api.load_masks(run, 1)


@pytest.mark.parametrize(
    ("name", "state"),
    [(name, "damaged") for name in ("settings.json", "metrics.jsonl", "rounds.csv", "watch.csv", "round_1/round.json")]
    + [(f"{name}.safetensors", "finished") for name in ("theta_0", "masks/round_1", "round_1/model", "final/model")]
    + [(sums.NAME, "damaged"), ("status.json", "unreadable")],
)
def test_a_report_says_what_is_damaged_and_is_made_from_the_rest(name, state, whole, tmp_path):
    from swlottery.report.page.facts import collect
    from swlottery.report.page.make import log_of

    for run in ("good", "other"):
        shutil.copytree(only_run(whole), tmp_path / run)
    sound = collect([tmp_path])
    flip(tmp_path / "other" / name, 0.4, 2)
    facts = collect([tmp_path])
    runs = facts["runs"].set_index("run")
    assert runs["state"].to_dict() == {"good": "finished", "other": state}
    assert state == "unreadable" or (name in runs["message"]["other"] and not runs["message"]["good"])
    lost = {"damaged": set(facts.tables) - {"runs"}, "unreadable": set()}.get(
        state, {"fixed", "elsewhere", "predicted", "regression", "twins"}
    )
    for table, rows in facts.tables.items():
        kept, all_of_it = (list(one["run"]).count("other") for one in (rows, sound[table]))
        assert kept == (0 if table in lost else all_of_it), table
    said = log_of(tmp_path / "other")
    assert ("BadInput" in said) == (name in ("settings.json", "metrics.jsonl", sums.NAME))


def test_a_file_that_is_damaged_while_the_run_goes_is_not_rewound_to(tiny_gpt2, text, tmp_path, capsys, monkeypatch):
    from swlottery.lottery.loop import Lottery

    real = Lottery.rewind

    def rewind(self):
        flip(only_run(tmp_path) / "theta_k.safetensors", 1, 0)
        real(self)

    with monkeypatch.context() as patched:
        patched.setattr(Lottery, "rewind", rewind)
        assert main(flags(tiny_gpt2, text, tmp_path, **SHORT)) == 2
    assert "theta_k.safetensors is damaged" in capsys.readouterr().err.splitlines()[-1]
    before = everything(only_run(tmp_path))
    assert main(flags(tiny_gpt2, text, tmp_path, **SHORT)) == 2
    assert "theta_k.safetensors is damaged" in capsys.readouterr().err.splitlines()[-1]
    assert everything(only_run(tmp_path)) == before


@pytest.mark.parametrize(
    "name", ["theta_k.safetensors", "theta_0.safetensors", "masks/round_1.safetensors", "watch.csv"]
)
def test_what_cannot_be_read_now_is_no_damage(name, whole, tiny_gpt2, text, tmp_path, capsys):
    run = tmp_path / "runs" / only_run(whole).name
    shutil.copytree(whole / "stopped" / run.name, run)
    (run / name).rename(tmp_path / "away")
    (run / name).symlink_to(run / name)  # ELOOP
    before = everything(run)
    assert main(flags(tiny_gpt2, text, tmp_path, **SHORT)) == 2
    assert f"cannot use {run / name}" in capsys.readouterr().err.splitlines()[-1]
    assert everything(run) == before
    (run / name).unlink()
    (tmp_path / "away").rename(run / name)
    assert main(flags(tiny_gpt2, text, tmp_path, **SHORT)) == 0
    assert ends(run) == ends(only_run(whole))


def test_a_run_whose_state_cannot_be_read_now_does_not_begin_anew(whole, tiny_gpt2, text, tmp_path, capsys):
    """One of an earlier version: it has no SHA256SUMS that says that it is finished."""
    run = tmp_path / "runs" / only_run(whole).name
    shutil.copytree(only_run(whole), run)
    for name in (sums.NAME, "status.json"):
        (run / name).unlink()
    (run / "status.json").symlink_to(run / "status.json")
    before = everything(run)
    assert main(flags(tiny_gpt2, text, tmp_path, **SHORT)) == 2
    assert str(run / "status.json") in capsys.readouterr().err.splitlines()[-1]
    assert everything(run) == before


def test_initial_weights_that_are_missing_are_made_again(whole, tiny_gpt2, text, tmp_path, capsys):
    run = tmp_path / "runs" / only_run(whole).name
    shutil.copytree(whole / "stopped" / run.name, run)
    (run / "theta_0.safetensors").unlink()
    assert main(flags(tiny_gpt2, text, tmp_path, **SHORT)) == 0
    assert "theta_0.safetensors was damaged, and is made again" in " ".join(capsys.readouterr().out.split())
    assert ends(run) == ends(only_run(whole))


def test_no_initial_weights_of_another_start_are_taken_for_the_damaged_ones(whole, tiny_gpt2, text, tmp_path, capsys):
    from transformers import AutoModelForCausalLM

    run, model = tmp_path / "runs" / only_run(whole).name, tiny_gpt2 / "model.safetensors"
    shutil.copytree(whole / "stopped" / run.name, run)
    flip(run / "theta_0.safetensors", 1, 0)
    before, weights = everything(run), model.read_bytes()
    network = AutoModelForCausalLM.from_pretrained(tiny_gpt2)
    network.transformer.ln_f.bias.data += 1
    try:
        network.save_pretrained(tiny_gpt2)
        assert main(flags(tiny_gpt2, text, tmp_path, **SHORT)) == 2
    finally:
        model.write_bytes(weights)
    assert "theta_0.safetensors is damaged" in capsys.readouterr().err.splitlines()[-1]
    assert everything(run) == before


def test_sha256sum_reads_the_sums(whole):
    import subprocess

    if shutil.which("sha256sum") is None:
        pytest.skip("no sha256sum here")
    run = only_run(whole)
    said = subprocess.run(["sha256sum", "--strict", "-c", sums.NAME], cwd=run, capture_output=True, text=True)
    assert said.returncode == 0, said.stdout + said.stderr
    listed = {line.rpartition(": ")[0] for line in said.stdout.splitlines()}
    assert listed == set(FINISHED) - {"status.json", "lock", sums.NAME}


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "masks/../../outside"])
def test_no_path_out_of_the_folder(name, whole, tmp_path):
    """Neither SHA256SUMS nor a manifest names a file elsewhere."""
    run = tmp_path / "run"
    shutil.copytree(whole / "stopped" / only_run(whole).name, run)
    (tmp_path / "outside").write_text("")
    with pytest.raises(ValueError, match="is no file of this folder"):
        sums.damaged(run, {name: "0" * 64})
    sums.write(run, {name: "0" * 64})
    with pytest.raises(BadInput, match="SHA256SUMS is damaged"):
        sums.check(run)


def test_old_runs_have_no_sums_and_are_read(whole, tiny_gpt2, text, tmp_path, capsys):
    run = tmp_path / "runs" / only_run(whole).name
    shutil.copytree(only_run(whole), run)
    (run / sums.NAME).unlink()
    flip(run / "watch.csv", 0.5, 0)
    assert main(flags(tiny_gpt2, text, tmp_path, **SHORT)) == 0
    assert "is done" in capsys.readouterr().out


def test_checkpoints_of_the_schema_before_are_read(whole, tiny_gpt2, text, tmp_path):
    """They have no hashes; those that are written now have them, of all files that were written since."""
    run = tmp_path / "runs" / only_run(whole).name
    shutil.copytree(whole / "stopped" / run.name, run)
    for manifest in run.glob("checkpoints/*.json"):
        state = sums.read_sealed(manifest) | {"schema": 1}
        manifest.write_text(json.dumps({key: state[key] for key in state if key not in ("hashes", "files")}))
    assert main(flags(tiny_gpt2, text, tmp_path, **SHORT)) == 0
    assert ends(run) == ends(only_run(whole))
    sums.check(run)


def test_a_model_may_have_files_in_a_folder_and_an_open_file_of_nfs_is_none(tiny_gpt2, text, tmp_path, monkeypatch):
    from transformers import AutoTokenizer

    from swlottery.lottery import branch

    model, real = tmp_path / "model", branch.write
    shutil.copytree(tiny_gpt2, model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = {"default": "{{ messages }}", "tools": "{{ tools }}"}
    tokenizer.save_pretrained(model)

    def write(target, *arguments):
        real(target, *arguments)
        (target / ".nfs0001").touch()

    monkeypatch.setattr(branch, "write", write)
    assert main(flags(model, text, tmp_path, **SHORT)) == 0
    parent = only_run(tmp_path)
    known = (parent / sums.NAME).read_text()
    assert "  round_1/additional_chat_templates/tools.jinja\n" in known and ".nfs" not in known
    changes = {**SHORT, "prune_rate": 0.1, "from_round_1": parent}
    assert main(flags(model, text, tmp_path / "branch", **changes)) == 0
    copied = {path.name for path in (only_run(tmp_path / "branch") / "round_1").rglob("*")}
    assert "tools.jinja" in copied and ".nfs0001" not in copied
