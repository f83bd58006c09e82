"""Names and paths as people have them: long, with spaces and line ends, of a preset, taken twice; and ``~``."""

from __future__ import annotations

import json
import shutil

import pytest

import odd
from odd import find, model, refused, run, train
from swlottery.config import TrainSettings
from swlottery.errors import BadInput
from swlottery.find import record as records
from swlottery.models import names
from swlottery.study import naming

LONG = "m" * 230
ODD = ['a model\nb\t%j $x^{$ é模型 it\'s "so"', "-x", LONG]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return model(tmp_path_factory.mktemp("made") / "m")


@pytest.fixture(scope="module")
def plain(made):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made.parent)
        return find("m").out


@pytest.mark.parametrize("name", ODD, ids=ascii)
def test_a_model_with_an_odd_name(name, made, here, plain):
    """Both commands work; each line of a log is one; files have safe names, and the record has the model's own."""
    shutil.copytree(made, here / name)
    said = find(f"./{name}")
    assert said.code == 0 and said.err == "", said
    (record,), (figures,) = here.glob("super_weights/*.json"), here.glob("plots/*")
    assert record.stem == figures.name and record.stem.isascii() and " " not in record.stem and len(record.stem) <= 190
    assert records.load(record)["model"] == f"./{name}"
    lines = said.out.splitlines()
    shown = name.replace("\n", "\\n").replace("\t", "\\t")
    assert f"model      ./{shown}" in lines
    assert len(lines) == len(plain.splitlines())
    said = train(f"./{name}", "--super-weights", str(record), "--rounds", "1")
    assert said.code == 0 and said.err == "", said
    (folder,) = here.glob("runs/*")
    assert folder.name.startswith(f"{record.stem}-pretrained-p0.2-T4-d0-")


def test_the_command_in_the_log_can_be_run(made, here):
    """A line end in a name is written so that bash reads it."""
    import subprocess

    shutil.copytree(made, here / "a\nb c")
    (line,) = [line for line in find("./a\nb c").out.splitlines() if "func_train.sh" in line]
    words = subprocess.run(
        ["bash", "-c", line.replace("sbatch func_train.sh", "printf '%s\\0'")], capture_output=True, text=True
    )
    assert words.stdout.split("\0")[:2] == ["--model", "./a\nb c"]


def test_the_names_of_good_inputs_stay():
    assert names.slug("openai-community/gpt2") == "openai-community__gpt2"
    assert names.slug("./" + "x" * 190) == "x" * 190
    one, other = names.slug("./" + "x" * 191), names.slug("./" + "x" * 192)
    assert one != other and len(one) == len(other) == 190
    settings = TrainSettings(prune_rate="0." + "1" * 300)
    assert len(naming.name(settings, "x" * 190, {})) <= 249
    assert naming.name(TrainSettings(), "gpt2", {}) == "gpt2-pretrained-p0.2-T300-d0-" + naming.digest(
        TrainSettings(), {}
    )


@pytest.mark.parametrize("name", ["./" + "x" * 300, "~nobody-here/m", "./nowhere", "a/b/" + "c" * 5000])
def test_a_path_that_cannot_be(name, here):
    refused(find(name), "no such file or folder")
    refused(train(name), "no such file or folder")
    refused(find("x" * 300), "cannot load the model")


# ~


def test_every_path_may_begin_with_a_tilde(made, here, monkeypatch):
    """As a flag, and in a config: no shell has replaced it there."""
    home = here / "home"
    shutil.copytree(made, home / "m")
    monkeypatch.setenv("HOME", str(home))
    (home / "prompts.txt").write_text("One prompt with more than a dozen tokens.\n")
    said = find("~/m", "--prompt-file=~/prompts.txt", "--out=~/out/r.json", "--plots=~/figures")
    assert said.code == 0, said
    assert (home / "out" / "r.json").is_file() and len(list(home.glob("figures/*.png"))) == 3
    assert run("find", "--model=~/m", "--check=~/out/r.json", "--device=cpu").code == 0
    (home / "run.yaml").write_text("super_weights: ~/out/r.json\nruns: ~/runs\nplots: ~/plots\nmodel: ~/m\n")
    said = train("~/m", "--config=~/run.yaml")
    assert said.code == 0, said
    (run_folder,) = home.glob("runs/*")
    assert list(home.glob("plots/*.png"))
    assert run("status", "~/runs").out.count(run_folder.name[:20]) == 1
    said = train("~/m", "--config=~/run.yaml", "--from-round-1=~/runs", "--prune-rate=0.5")
    assert said.code == 0, said
    assert run("report", "~/runs", "--out=~/page/report.html", "--markdown=~/page/report.md").code == 0
    assert (home / "page" / "report.html").is_file() and (home / "page" / "report.md").is_file()
    (home / "study.yaml").write_text("grid: {seed: [0, 1]}\nconfig: ~/run2.yaml\n")
    (home / "run2.yaml").write_text("model: ~/m\n")
    assert run("sweep", "~/study.yaml", "--dry-run").out.count("--model") == 2
    assert not (here / "~").exists()


# Short names


@pytest.mark.parametrize("name", ["smollm2", "gpt2-mini"])
def test_a_preset_wins_over_a_folder_of_its_name(name, made, here):
    shutil.copytree(made, here / name)
    assert names.path_of(name) is None and str(names.path_of(f"./{name}")) == name
    assert find(f"./{name}").code == 0
    if name == "gpt2-mini":
        refused(find(name), "from scratch only: add --start scratch, or write ./gpt2-mini for the folder")
    else:
        assert str(names.locate(name)[0]).endswith(".gguf")


@pytest.mark.usefixtures("no_figures")
def test_a_file_called_discover_or_none_is_no_record(made, here):
    for name in ("discover", "none"):
        (here / name).write_text("{}")
    for name in ("discover", "none"):
        said = train(made, "--super-weights", name)
        assert said.code == 0, said


@pytest.mark.parametrize("revision", ["main", ""])
def test_a_revision_of_what_is_not_on_the_hub(revision, made, here):
    for said in (find(made, "--revision", revision), train(made, "--revision", revision)):
        refused(said, f"--revision {revision}".strip(), "changes nothing", "is not on the hub")
    refused(find("smollm2", "--revision", revision), "smollm2 is not on the hub")
    prepared = run("prepare", "--model", str(made), "--data", "t.txt", "--revision", revision)
    refused(prepared, "changes nothing")
    assert {path.name for path in here.iterdir()} <= {"t.txt"}


# Records of two networks under one name


def other_weights(folder, seed=1):
    import torch
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = load_file(path)
    key = next(name for name in tensors if "c_proj" in name)
    tensors[key] = tensors[key] + 0.001 * torch.randn(tensors[key].shape, generator=torch.Generator().manual_seed(seed))
    save_file(tensors, path, {"format": "pt"})
    return folder


def test_two_networks_of_the_same_name_keep_both_records_and_figures(made, here):
    first, second = (shutil.copytree(made, here / "runs" / name / "final") for name in "AB")
    other_weights(here / "runs" / "B" / "final")
    assert find(first).code == 0
    before = {path: path.read_bytes() for path in here.glob("*/final*/*.png")}
    before |= {path: path.read_bytes() for path in here.glob("super_weights/*.json")}
    assert len(before) == 4
    said = find(second)
    assert said.code == 0 and "super_weights/final.json stays: it is of another network" in said.out
    assert {path: path.read_bytes() for path in before} == before
    (own,) = set(here.glob("super_weights/*.json")) - {*before}
    weights = records.load(own)["weights_sha256"]
    assert own.name == f"final-{weights[:8]}.json" and f"record   {own.relative_to(here)}" in said.out
    assert len(list(here.glob(f"plots/final-{weights[:8]}/*.png"))) == 3
    again = find(second)
    assert "The same 0 super weights as in the earlier record" in again.out
    again = find(first)
    assert "The same 0 super weights as in the earlier record" in again.out
    assert len(list(here.glob("super_weights/*.json"))) == 2 and len(list(here.glob("plots/*"))) == 2


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"schema": 2, "weights_sha256": "0" * 64}), ""])
def test_a_record_that_cannot_be_read_is_kept_too(content, made, here):
    (here / "super_weights").mkdir()
    taken = here / "super_weights" / "m.json"
    taken.write_text(content)
    assert find(made).code == 0 and taken.read_text() == content
    (own,) = here.glob("super_weights/m-*.json")
    own.write_text("{")  # of a newer version, say
    assert find(made).code == 0 and own.read_text() == "{"
    assert len(list(here.glob("super_weights/*.json"))) == 3


def test_a_record_that_is_asked_for_by_name_is_replaced(made, here):
    first, second = shutil.copytree(made, here / "A"), other_weights(shutil.copytree(made, here / "B"))
    for folder in (first, second):
        said = find(folder, "--out", "r.json", "--plots", "p")
    assert "The earlier record was made from other weights. It is replaced." in said.out
    assert records.load(here / "r.json")["model"] == str(second)
    assert not (here / "super_weights").exists()


def test_figures_go_where_the_record_is_named(made, here):
    for name in ("first", "second"):
        assert find(made, "--out", f"{name}.json").code == 0
    assert sorted(path.name for path in here.glob("plots/*")) == ["first", "second"]


# A finished run, and other inputs under the same names


def finished(here):
    (folder,) = here.glob("runs/*")
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("what", ["weights", "text", "tokenizer"])
def test_a_finished_run_is_not_said_to_be_that_of_other_inputs(what, made, here):
    shutil.copytree(made, here / "m")
    assert train("m").code == 0 and "is done" in train("m").out
    before = finished(here)
    if what == "weights":
        other_weights(here / "m")
    elif what == "text":
        (here / "t.txt").write_text(odd.TEXT.replace("fox", "cat"))
    else:
        odd.change(here / "m" / "tokenizer.json", pre_tokenizer=None)
    said = train("m")
    word = "other weights at step 0" if what == "weights" else "other tokens"
    refused(said, word, "give --runs and --plots other folders, or move that one away")
    assert said.out == "" or "is done" not in said.out
    assert finished(here) == before


@pytest.mark.usefixtures("no_figures")
def test_of_other_versions_a_note_is_enough(here, few_docstrings):
    """From scratch and with the built-in tokenizer the user changed nothing."""
    small = ["--start", "scratch", "--model", "gpt2-mini", "--tokenizer", "builtin"]
    assert train("x", *small).code == 0
    (folder,) = here.glob("runs/*")
    path = folder / "metrics.jsonl"
    first, _, rest = path.read_text().partition("\n")
    event = json.loads(first)
    event["lineage"], event["versions"]["torch"] = "0" * 64, "1.0"
    event["data"]["sha256"] = "0" * 64
    path.write_text(json.dumps(event) + "\n" + rest)
    (folder / "SHA256SUMS").unlink()
    said = train("x", *small)
    assert said.code == 0 and said.out.count("for it was made with other versions") == 2 and "is done" in said.out
    event["versions"] = json.loads(first)["versions"]  # with the same versions the text was changed
    path.write_text(json.dumps(event) + "\n" + rest)
    refused(train("x", *small), "other tokens")


@pytest.mark.usefixtures("no_figures")
def test_a_damaged_table_of_a_finished_run_says_nothing(made, here):
    shutil.copytree(made, here / "m")
    assert train("m").code == 0
    (folder,) = here.glob("runs/*")
    (folder / "metrics.jsonl").write_text("{}\n")
    assert train("m").code in (0, 2)


def test_from_python_what_a_loaded_model_ignores_is_refused():
    import swlottery
    from tiny import tiny_model

    with pytest.raises(BadInput, match="--dtype float32 changes nothing for a model that is loaded already"):
        swlottery.find(tiny_model("gpt2"), object(), dtype="float32")
    with pytest.raises(BadInput, match="tokenizer changes nothing for a model that is named"):
        swlottery.find("smollm2", object())
