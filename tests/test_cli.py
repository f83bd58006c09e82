"""The command line, run as users run it: as a process, with its exit code and its one line on stderr."""

import json
import re
import shutil
import subprocess
import sys
import time

import pytest

from swlottery.find import record as records


def swlottery(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "swlottery.cli", *map(str, arguments)], capture_output=True, text=True, **options
    )


def refused(result, words):
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("swlottery: "), result.stderr
    assert re.search(words, lines[0]), lines[0]


def test_help_does_not_wait_for_torch():
    code = "import sys; sys.argv = ['swlottery', 'find', '--help']\nimport swlottery.cli as c\n"
    code += "try: c.main()\nexcept SystemExit as e: assert e.code == 0\n"
    code += "assert not {'torch', 'transformers', 'numpy', 'scipy'} & set(sys.modules), 'heavy'"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "--eval-tokens" in result.stdout


def test_a_find_from_end_to_end(found_record, planted_gpt2):
    record = records.load(found_record)
    (weight,) = record["super_weights"]
    coordinate = planted_gpt2[1]
    assert (weight["layer"], weight["out"], weight["in"]) == tuple(coordinate)[:3]
    assert weight["module"] == "transformer.h.1.mlp.c_proj" and weight["rank"] >= 1
    token = weight["token"]
    if not token["bos"]:
        assert token["prompt"][token["position"]] == token["text"], "the tiny model's tokens are bytes"
    assert len([row for row in record["controls"] if row["kind"] == "control"]) == 4
    assert [null["draws"] for null in record["nulls"]] == [19, 19]
    plots = found_record.parent / "plots"
    assert sorted(path.name for path in plots.iterdir()) == ["ablations.png", "activations.png", "contributions.png"]


@pytest.fixture
def quick(planted_gpt2, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"Sentence {i} of a text that nobody would read twice." for i in range(100)))

    def arguments(*more):
        return (
            "find", "--model", planted_gpt2[0], "--out", tmp_path / "r.json", "--plots", tmp_path / "plots",
            "--eval-text", text, "--eval-tokens", "1000", "--controls", "2", "--null-draws", "3", "--device", "cpu", *more,
        )  # fmt: skip

    return arguments


def test_the_log_is_for_a_person_and_has_no_progress_bars(quick, planted_gpt2, tmp_path):
    result = swlottery(*quick())
    assert result.returncode == 0 and result.stderr == ""
    log = result.stdout
    assert "\r" not in log and "%|" not in log
    layer, out, in_, _ = planted_gpt2[1]
    for words in (
        f"removal 1: ({layer}, {out}, {in_})",
        "draws, largest ratio anywhere",
        "cost: at most",
        f"({layer}, {out}, {in_}) is ",
        "--super-weights",
        str(tmp_path / "r.json"),
        str(tmp_path / "plots" / "ablations.png"),
        "weights    sha256 " + records.load(tmp_path / "r.json")["weights_sha256"],
    ):
        assert words in log, words
    again = swlottery(*quick("--dtype", "bfloat16"))
    assert "The same 1 weights as in the record that stood here (dtype float32 → bfloat16)." in again.stdout
    other = swlottery(*quick("--kappa", "1000"))
    assert f"gone: ({layer}, {out}, {in_})" in other.stdout and "kappa 40.0 → 1000.0" in other.stdout


def test_one_seed_gives_one_record(quick, tmp_path):
    swlottery(*quick())
    first = json.loads((tmp_path / "r.json").read_text())
    swlottery(*quick())
    assert json.loads((tmp_path / "r.json").read_text()) == first


def test_check_says_whether_a_record_belongs_to_a_model(found_record, planted_gpt2, tiny_gpt2, tmp_path):
    mine = swlottery("find", "--model", planted_gpt2[0], "--check", found_record, "--device", "cpu")
    assert mine.returncode == 0 and "belongs to" in mine.stdout
    refused(
        swlottery("find", "--model", tiny_gpt2, "--check", found_record, "--device", "cpu"),
        "a coordinate means nothing in another network",
    )
    old = json.loads(found_record.read_text()) | {"schema": 0}
    (tmp_path / "old.json").write_text(json.dumps(old))
    refused(swlottery("find", "--model", planted_gpt2[0], "--check", tmp_path / "old.json"), "schema version 0")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["find", "--modle", "x"], "unknown flag --modle: did you mean --model?"),
        (["find", "--evaltokens=5"], "did you mean --eval-tokens?"),
        (["find", "stray"], "unknown argument stray"),
        (["fnd"], "invalid choice: 'fnd'"),
        (["find", "--seed", "x"], "invalid int value"),
        (["find", "--dtype", "float8"], "invalid choice: 'float8'"),
        (["find", "--kappa", "0"], "--kappa 0: must be at least 2"),
        (["find", "--kappa", "nan"], "--kappa nan"),
        (["find", "--seed", "-1"], "--seed -1: must be at least 0"),
        (["find", "--out", "/"], "cannot write /: it is a folder"),
        (["find", "--model", "./nowhere"], "no such file or folder: ./nowhere"),
        (["find", "--prompt", ""], "empty prompt"),
        (["find", "--prompt-file", "/nowhere.txt"], "cannot read --prompt-file"),
        (["find", "--eval-text", "/nowhere.txt"], "no such file or folder"),
        (["find", "--check", "/nowhere.json"], "cannot read the record"),
        (["find", "--out", "/proc/none/r.json"], "cannot write /proc/none/r.json"),
    ],
)
def test_bad_input_gets_one_line(arguments, words, tmp_path):
    refused(swlottery(*arguments, cwd=tmp_path), words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--prompt", "Hi"], "medians over tokens need at least"),
        (["--prompt", "long " * 300], "longer than the model's context of 512"),
        (["--eval-tokens", "64"], "--eval-tokens to 512 or more"),
        (["--eval-tokens", "100000000"], "but .* windows .* need"),
        (["--device", "cuda"], "no such CUDA device"),
        (["--start", "scratch"], "no config named"),
    ],
)
def test_bad_input_that_shows_only_with_the_model(quick, tmp_path, more, words):
    import torch

    if "cuda" in more and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    refused(swlottery(*quick(*more)), words)
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_damaged_weights(planted_gpt2, tmp_path):
    folder = shutil.copytree(planted_gpt2[0], tmp_path / "model")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000])
    refused(swlottery("find", "--model", folder, "--device", "cpu"), "damaged")


def test_ctrl_c_in_the_middle_writes_nothing(quick, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "swlottery.cli", *map(str, quick("--null-draws", "100000"))],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        for line in process.stdout:
            if line.startswith("removal 1"):
                break
        time.sleep(0.2)
        process.send_signal(2)
        process.stdout.close()
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "interrupted" in stderr
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]
