"""Settings of `swlottery train`: what is refused, with which words, and that a flag wins over the file."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from decimal import Decimal
from pathlib import Path

import pytest

from swlottery import config
from swlottery.cli import main
from swlottery.config import FindSettings, SweepSettings, TraceSettings, TrainSettings, flag_of
from swlottery.errors import BadInput
from swlottery.settings_file import check_values, from_file, read_yaml


def test_the_defaults_are_sound():
    TrainSettings().check()
    assert TrainSettings().rates() == [Decimal("0.2")] * 5


FROM_1 = "micro_batch grad_accum steps rounds eval_steps eval_sequences checkpoint_steps".split()  # noqa: SIM905
FROM_0 = """lr warmup weight_decay clip seed data_seed threads context vocabulary data_tokens checkpoint_seconds
    beta1 beta2""".split()  # noqa: SIM905
CHOICES = "start init data_order scope criterion rewind protect force_prune trace lr_schedule dtype".split()  # noqa: SIM905
ONLY_AT_START = {"prune_at_start": True, "rounds": 1}
BAD = [
    ({"prune_rate": "0"}, "--prune-rate 0: a fraction between 0 and 1"),
    ({"prune_rate": "1e-999999999"}, "--prune-rate 1e-999999999: a fraction between 0 and 1"),
    ({"prune_rate": "1"}, "--prune-rate 1: a fraction between 0 and 1"),
    ({"prune_rate": "1.0"}, "--prune-rate 1.0: a fraction"),
    ({"prune_rate": "20"}, "--prune-rate 20: a fraction between 0 and 1, such as 0.2 for 20 %"),
    ({"prune_rate": "-0.2"}, "--prune-rate -0.2: a fraction"),
    ({"prune_rate": "20%"}, "--prune-rate 20%: give a fraction such as 0.2"),
    ({"prune_rate": "much"}, "--prune-rate much: give a fraction"),
    ({"prune_rate": ""}, "--prune-rate : give a fraction"),
    ({"prune_rate": "nan"}, "--prune-rate nan: a fraction"),
    ({"prune_rate": "snan"}, "--prune-rate snan: a fraction"),
    ({"prune_rate": "inf"}, "--prune-rate inf: a fraction"),
    ({"schedule": "0.1,0.2"}, "--schedule has 2 fractions for 5 rounds: give one a round"),
    ({"schedule": "0.1,0.2,0.3", "rounds": 2}, "--schedule has 3 fractions for 2 rounds"),
    ({"schedule": "0.1,1", "rounds": 2}, "--schedule 1: a fraction between 0 and 1"),
    ({"schedule": "0.1,,0.2", "rounds": 3}, "--schedule : give a fraction"),
    ({"schedule": "0.1;0.2", "rounds": 2}, "--schedule 0.1;0.2: give a fraction"),
    ({"schedule": "0.1", "rounds": 1, "one_shot": True}, "--one-shot prunes once; leave --schedule away"),
    ({"rewind_step": 300}, "--rewind-step 300: a round has 300 steps; rewind to an earlier one"),
    ({"rewind_step": 7, "steps": 5}, "--rewind-step 7: a round has 5 steps"),
    ({"rewind_step": -1}, "--rewind-step -1: must be at least 0"),
    ({"protect": "sw", "force_prune": "sw"}, "--protect sw and --force-prune sw contradict each other"),
    ({"super_weights": "none", "protect": "sw"}, "--super-weights none leaves nothing to protect"),
    ({"super_weights": "none", "force_prune": "controls"}, "--super-weights none leaves nothing to"),
    ({"init": "kaiming"}, "--init kaiming changes nothing without --start scratch: leave it at gpt2, its default"),
    ({"freeze_biases": True}, "--freeze-biases changes nothing without --start scratch: leave it away"),
    ({"vocabulary": 300}, "--vocabulary 300 changes nothing without --start scratch: leave it away"),
    ({"tokenizer": "builtin"}, "--tokenizer builtin changes nothing without --start scratch"),
    ({"start": "scratch", "revision": "main"}, "--revision main changes nothing with --start scratch: leave it away"),
    ({"schedule": "0.1", "rounds": 1, "prune_rate": "0.3"}, "--prune-rate 0.3 changes nothing with --schedule"),
    ({"allow_foreign": True}, "--allow-foreign changes nothing without a record"),
    ({"super_weights": "none", "allow_foreign": True}, "--allow-foreign changes nothing without a record"),
    ({"prune_at_start": True, "from_round_1": "r"}, "--prune-at-start makes another first training than that of"),
    (
        {**ONLY_AT_START, "rewind": "lr"},
        "--rewind lr changes nothing where the only prune is at the start: leave it at",
    ),
    (
        {**ONLY_AT_START, "one_shot": True, "rounds": 5, "rewind_step": 1},
        "--rewind-step 1 changes nothing where the only",
    ),
    ({**ONLY_AT_START, "data_order": "fresh"}, "--data-order fresh changes nothing where the only prune"),
    (
        {**ONLY_AT_START, "protect": "sw"},
        "--protect sw changes nothing where the only prune is at the start, before any",
    ),
    ({**ONLY_AT_START, "force_prune": "controls"}, "--force-prune controls changes nothing where the only prune"),
    (
        {"prune_at_start": True, "start": "scratch", "init": "xavier-zero-gains", "scope": "all"},
        "--prune-at-start takes the gains that --init xavier-zero-gains has at zero: give another scope",
    ),
    ({"runs": ""}, "--runs is empty: give a path, or leave it away"),
    ({"from_round_1": ""}, "--from-round-1 is empty"),
    ({"model": "a\0b"}, "--model 'a\\x00b': is not UTF-8, or holds a zero byte"),
    ({"data": "caf\udce9.txt"}, "--data 'caf\\udce9.txt': is not UTF-8"),
    ({"follow": ["1,2," + "9" * 5000]}, "give a coordinate as LAYER,OUT,IN"),
    ({"follow": ["2,447"]}, "--follow 2,447: give a coordinate as LAYER,OUT,IN, such as 2,447,666"),
    ({"follow": ["2,447,666", "a,b,c"]}, "--follow a,b,c: give a coordinate"),
    ({"follow": ["2,-4,6"]}, "--follow 2,-4,6: give a coordinate"),
    *[({name: 0}, f"{flag_of(name)} 0: must be at least 1") for name in FROM_1],
    *[({name: -1}, f"{flag_of(name)} -1: must be at least 0") for name in FROM_0],
    *[({name: math.nan}, f"{flag_of(name)} nan: must be at least 0, and finite") for name in ("lr", "clip", "beta1")],
    *[({name: math.inf}, f"{flag_of(name)} inf: must be at least 0, and finite") for name in ("lr", "clip", "beta1")],
    ({"seed": 2**63}, "and finite"),
    ({"beta1": 1.0}, "--beta1 1: must be below 1"),
    ({"beta2": 1.5}, "--beta2 1.5: must be below 1"),
    *[({name: "other"}, f"{flag_of(name)} other: choose from ") for name in CHOICES],
]


@pytest.mark.parametrize(("changes", "words"), BAD, ids=str)
def test_what_cannot_be_meant(changes, words):
    with pytest.raises(BadInput) as caught:
        TrainSettings(**changes).check()
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_at_the_edge_is_taken():
    TrainSettings(rewind_step=299, steps=300).check()
    TrainSettings(lr=0.0, clip=0.0, warmup=1000, beta1=0.0, prune_rate="0.999", weight_decay=0).check()
    TrainSettings(schedule="0.1, 0.29,1e-3", rounds=3, protect="sw", force_prune="controls").check()
    TrainSettings(start="scratch", vocabulary=300, tokenizer="./t", init="kaiming", freeze_biases=True).check()
    TrainSettings(super_weights="record.json", allow_foreign=True, one_shot=True, rounds=1).check()
    TrainSettings(prune_at_start=True, rounds=2, protect="sw", rewind="lr", data_order="fresh").check()
    TrainSettings(**ONLY_AT_START, super_weights="record.json", protect="sw", trace="log").check()
    TrainSettings(start="scratch", init="xavier-zero-gains", scope="linear", prune_at_start=True).check()


def test_rates_and_coordinates():
    assert TrainSettings(schedule="0.1, 0.29", rounds=2).rates() == [Decimal("0.1"), Decimal("0.29")]
    assert TrainSettings(prune_rate="0.1", rounds=2).rates() == [Decimal("0.1")] * 2
    follow = ["2,447,666", "(1, 2, 3)"]
    assert TrainSettings(follow=follow).coordinates() == [(2, 447, 666), (1, 2, 3)]
    ablate = ["2,447,666", "(2, 447, 666)", "1,2,3,0"]
    assert FindSettings(ablate=ablate).coordinates() == [(2, 447, 666), (1, 2, 3, 0)]


IDLE = [
    ({"start": "scratch", "revision": "v1"}, "--revision v1 changes nothing with --start scratch"),
    ({"check": ""}, "--check is empty"),
    ({"out": ""}, "--out is empty"),
    ({"prompt": ["\udcff"]}, "--prompt '\\udcff': is not UTF-8"),
    ({"ablate": ["1,2"]}, "--ablate 1,2: give a coordinate as LAYER,OUT,IN"),
    ({"ablate": ["1,2,3,4,5"]}, "--ablate 1,2,3,4,5: give a coordinate"),
]


@pytest.mark.parametrize(("changes", "words"), IDLE, ids=str)
def test_what_find_cannot_mean(changes, words):
    with pytest.raises(BadInput, match=re.escape(words)):
        FindSettings(**changes).validate()


def test_what_a_sweep_cannot_mean():
    with pytest.raises(BadInput, match="--sbatch -p gpu changes nothing with --local, or without a Slurm"):
        SweepSettings("s.yaml", sbatch="-p gpu").check(by_slurm=False)
    SweepSettings("s.yaml", sbatch="-p gpu").check(by_slurm=True)
    SweepSettings("s.yaml", sbatch="-p gpu", dry_run=True).check(by_slurm=False)


def test_every_path_may_begin_with_the_home_folder(monkeypatch):
    """Of all settings that name one; the name of a model, and that of a text, are read where they are used."""
    monkeypatch.setenv("HOME", "/home/me")
    for kind in (FindSettings, TrainSettings, SweepSettings):
        paths = [one.name for one in dataclasses.fields(kind) if one.metadata.get("path")]
        settings = kind(**dict.fromkeys(paths, "~/x y"))
        assert {getattr(settings, name) for name in paths} == {"/home/me/x y"}
        known = {"prompt_file", "out", "plots", "check", "tokenizer", "from_round_1", "super_weights", "runs", "study"}
        assert set(paths) == known & {one.name for one in dataclasses.fields(kind)}
    assert FindSettings(out="~nobody-here/x").out == "~nobody-here/x"


def test_every_setting_says_what_it_does_and_its_limits_are_checked() -> None:
    with pytest.raises(BadInput, match="--kappa 1: must be at least 2"):
        FindSettings(kappa=1.0).check_limits()
    with pytest.raises(BadInput, match="--bos never: choose from both, with, without"):
        FindSettings(bos="never").check_limits()
    FindSettings().check_limits()
    for field in [
        *dataclasses.fields(FindSettings),
        *dataclasses.fields(TrainSettings),
        *dataclasses.fields(TraceSettings),
    ]:
        is_number = field.type in ("int", "float") and "seed" not in field.name
        assert not is_number or field.metadata["unit"] or field.name in NO_UNIT, field.name


NO_UNIT = {"grad_accum", "lr", "weight_decay", "beta1", "beta2", "clip"}


def test_what_affects_only_later_rounds_is_what_a_branch_may_change() -> None:
    assert {"runs", "plots", "checkpoint_steps", "checkpoint_seconds", "rank_timeout", "tracker"} == config.OPERATIONAL
    settings = """rounds prune_rate schedule one_shot data_order scope criterion rewind rewind_step from_round_1
        super_weights allow_foreign follow protect force_prune trace eval_steps eval_sequences compile"""
    assert {*settings.split()} | config.OPERATIONAL == config.AFTER_ROUND_1


# Config files


@pytest.fixture
def written(tmp_path):
    def write(text: str | bytes) -> Path:
        path = tmp_path / "run.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_values_of_every_kind(written):
    text = """
    # as people write them
    lr: 6e-4
    clip: 1
    weight_decay: 1.0e-1
    steps: 10
    freeze_biases: true
    prune_rate: 0.1
    schedule: [0.1, 0.29]
    follow: [[2, 447, 666], "1,2,3"]
    model: 876812
    revision:
    super_weights: none
    rewind: none
    """
    expected = {
        "lr": 0.0006,
        "clip": 1.0,
        "weight_decay": 0.1,
        "steps": 10,
        "freeze_biases": True,
        "prune_rate": "0.1",
        "schedule": "0.1,0.29",
        "follow": ["2,447,666", "1,2,3"],
        "model": "876812",
        "revision": None,
        "super_weights": "none",
        "rewind": "none",
    }
    got = from_file(written(text))
    assert got == expected
    assert {name: type(value) for name, value in got.items()} == {name: type(value) for name, value in expected.items()}
    assert from_file(written("follow: 2,447,666")) == {"follow": ["2,447,666"]}
    as_tuples = {"schedule": (0.1, 0.29), "follow": ((2, 447, 666), "1,2,3")}  # as Python's callers may give them
    assert check_values(as_tuples) == {name: expected[name] for name in as_tuples}


def test_what_a_run_stores_can_be_read_as_a_config(written):
    """settings.json is YAML too."""
    settings = TrainSettings(follow=["1,2,3"], lr=1e-5, prune_rate="0.1", one_shot=True)
    assert from_file(written(json.dumps(dataclasses.asdict(settings)))) == dataclasses.asdict(settings)


def bomb(first: str, name: str) -> str:
    """Twenty names, each of nine of the one before."""
    names = [f"x{nth}: &x{nth} " + name % ", ".join([f"*x{nth - 1}"] * 9) for nth in range(1, 21)]
    return "\n".join([f"x0: &x0 {first}", *names])


BAD_FILES = [
    ("steps: 1.5", "steps: 1.5 is not a whole number"),
    ("steps: 1e3", "steps: '1e3' is not a whole number"),
    ("steps: true", "steps: True is not a whole number"),
    ("steps: ten", "steps: 'ten' is not a whole number"),
    ("steps: [10]", "steps: [10] is not a whole number"),
    ("steps:", "steps: None is not a whole number"),
    ("lr: fast", "lr: 'fast' is not a number"),
    ("lr: true", "lr: True is not a number"),
    ("lr: [1.0]", "lr: [1.0] is not a number"),
    ("lr:", "lr: None is not a number"),
    ("compile: 1", "compile: 1 is not true or false"),
    ("compile: maybe", "compile: 'maybe' is not true or false"),
    ("model:", "model: None is not text"),
    ("model: {name: gpt2}", "model: {'name': 'gpt2'} is not text"),
    ("stepps: 10", "unknown setting stepps: did you mean steps?"),
    ("prune-rate: 0.2", "unknown setting prune-rate: did you mean prune_rate?"),
    ("zzzz: 10", "unknown setting zzzz"),
    ("1: 10", "unknown setting 1"),
    ("", "holds no settings: write one 'name: value' a line"),
    ("- steps\n- lr", "holds no settings"),
    ("steps", "holds no settings"),
    ("steps: [1", "is not YAML"),
    ("steps: 1\n lr: 2\n", "is not YAML"),
    (b"\xff\xfe\x00", "cannot read the config"),
    ("steps: 10\nlr: 1\nsteps: 20", "steps stands twice (line 3): leave one of them away"),
    ('steps: 10\n"steps": 20', "steps stands twice (line 2)"),
    ("steps: 2026-99-99", "is not YAML: month must be in 1..12"),
    ("steps: !!bool maybe", "is not YAML"),
    ("steps: " + "9" * 5000, "is not YAML"),
    ("steps: " + "[" * 3000, "is not YAML"),
    ("steps: 1\n---\nsteps: 2", "is not YAML"),
    ("follow: &a [*a]", "an alias stands inside of what it is short for"),
    ("follow: &a {<<: *a}", "an alias stands inside of what it is short for"),
    (bomb("[x, y]", "[%s]"), "over 1,048,576 characters with its aliases written out"),
    (bomb("{x: 1, y: 2}", "{<<: [%s]}"), "over 1,048,576 characters with its aliases written out"),
    ("#" * (1 << 20) + "\nsteps: 1", "is too long for a config"),
]


@pytest.mark.parametrize(("text", "words"), BAD_FILES)
def test_a_file_that_is_wrong(text, words, written):
    path = written(text)
    with pytest.raises(BadInput) as caught:
        from_file(path)
    assert words in str(caught.value) and str(path) in str(caught.value)


def test_a_mapping_takes_up_another_and_its_own_entries_win(written):
    assert read_yaml(written("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: *a"), "study", "study") == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 3, "y": 2},
        "c": {"x": 1, "y": 2},
    }
    deep = "a: {b: &b {<<: &c {k: 0}, k: 1}}\nd: {<<: *b, k: 2}"  # b is taken up before it is made
    assert read_yaml(written(deep), "study", "study") == {"a": {"b": {"k": 1}}, "d": {"k": 2}}


def test_no_code_is_run(written, tmp_path):
    path = written(f"model: !!python/object/apply:os.system ['touch {tmp_path}/ran']")
    with pytest.raises(BadInput, match="is not YAML"):
        from_file(path)
    assert not (tmp_path / "ran").exists()


# By the command line


@pytest.fixture
def started(monkeypatch):
    """The settings with which `swlottery train` begins, instead of a run."""
    seen = []

    def train(settings, *_, **__):
        seen.append(settings)
        return 0

    monkeypatch.setattr("swlottery.commands.train.train", train)

    def start(*arguments) -> TrainSettings:
        assert main(["train", *map(str, arguments)]) == 0
        return seen[-1]

    return start


def test_a_flag_wins_over_the_file_and_the_file_over_the_default(started, written):
    path = written("steps: 10\nlr: 6e-4\nfollow: [[1, 2, 3]]\nprune_rate: 0.1\nmicro_batch: 3\n")
    settings = started("--config", path, "--steps", 20, "--follow", "4,5,6", "--prune-rate", "0.3", "--seed", 0)
    assert settings == TrainSettings(steps=20, lr=6e-4, follow=["4,5,6"], prune_rate="0.3", micro_batch=3)
    assert started("--config", path, "--lr", "0", "--one-shot").lr == 0.0, "a flag that gives 0 wins as well"
    assert started() == TrainSettings()
    assert started("--follow", "1,2,3", "--follow", "4,5,6").follow == ["1,2,3", "4,5,6"]


def test_every_setting_has_a_flag(started, monkeypatch):
    monkeypatch.setattr(TrainSettings, "check", lambda self: None)  # 7 is not a fraction
    fields = {field.name: field for field in dataclasses.fields(TrainSettings)}
    for name, field in fields.items():
        flag, options = f"--{name.replace('_', '-')}", field.metadata["flag"]
        if options.get("action") == "store_true":
            assert getattr(started(flag), name) is True
        else:
            value = options.get("choices", ("7",))[-1]
            got = getattr(started(flag, value), name)
            kind = {"int": int, "float": float}.get(field.type, str)
            assert got == ([value] if options.get("action") == "append" else kind(value)), name
        assert len(field.metadata["help"]) > 5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--prune-rate", "20"], "--prune-rate 20: a fraction between 0 and 1"),
        (["--prune-rate", "nan"], "--prune-rate nan"),
        (["--rewind-step", "5", "--steps", "5"], "--rewind-step 5: a round has 5 steps"),
        (["--schedule", "0.1,0.2"], "--schedule has 2 fractions for 5 rounds"),
        (["--protect", "sw", "--force-prune", "sw"], "contradict each other"),
        (["--lr", "fast"], "invalid float value: 'fast'"),
        (["--steps", "1.5"], "invalid int value: '1.5'"),
        (["--rewind", "all"], "invalid choice: 'all'"),
        (["--prune-rat", "0.2"], "unknown flag --prune-rat: did you mean --prune-rate?"),
        (["--config", "/nowhere.yaml"], "cannot read the config /nowhere.yaml"),
        (["--config", "/"], "cannot read the config /"),
        (["--super-weights", "/nowhere.json"], "cannot read the record /nowhere.json"),
        (["--from-round-1", "/nowhere"], "no trained round-1 network there"),
    ],
)
def test_one_line_and_exit_2(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    refused(["train", *arguments], words, capsys)
    assert not list(tmp_path.iterdir()), "nothing is written"


@pytest.mark.parametrize(("text", "words"), [BAD_FILES[0], BAD_FILES[14], ("steps: [1\n\n  x: {", "is not YAML")])
def test_a_wrong_file_gets_one_line_too(text, words, written, capsys):
    refused(["train", "--config", str(written(text))], words, capsys)


def refused(arguments: list[str], words: str, capsys) -> None:
    try:
        code = main(arguments)
    except SystemExit as error:
        code = error.code
    captured = capsys.readouterr()
    assert code == 2 and captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("swlottery: ") and words in line


def test_every_flag_of_the_page_is_there():
    """The names that scripts outside the repository rely on."""
    settled = """
        model start init data context micro_batch grad_accum steps rounds prune_rate schedule one_shot
        data_order scope criterion rewind_step rewind super_weights allow_foreign protect force_prune lr
        warmup lr_schedule weight_decay dtype device compile seed data_seed runs
    """
    assert set(settled.split()) <= {field.name for field in dataclasses.fields(config.TrainSettings)}


def test_a_protocol_that_fixes_the_text_leaves_no_room_for_other_lengths() -> None:
    FindSettings(protocol="wikitext2").validate()
    for name, value in (("eval_tokens", 640), ("eval_context", 256)):
        with pytest.raises(BadInput, match=f"--eval-{name[5:]} {value} changes nothing with --protocol wikitext2"):
            FindSettings(protocol="wikitext2", **{name: value}).validate()
    with pytest.raises(BadInput, match="choose from quick, wikitext2"):
        FindSettings(protocol="ptb").validate()
