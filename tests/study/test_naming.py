"""The name of a run's folder."""

from __future__ import annotations

import dataclasses

from swlottery.config import TrainSettings
from swlottery.study import naming

CHANGES = {
    "model": "gpt2-mini",
    "revision": "main",
    "start": "scratch",
    "init": "xavier",
    "tokenizer": "builtin",
    "vocabulary": 50304,
    "freeze_biases": True,
    "data": "wikitext",
    "data_tokens": "10",
    "context": 64,
    "first_token": True,
    "micro_batch": 2,
    "grad_accum": 2,
    "steps": 7,
    "rounds": 2,
    "prune_rate": "0.1",
    "schedule": "0.1,0.2",
    "one_shot": True,
    "prune_at_start": True,
    "data_order": "fresh",
    "scope": "all",
    "criterion": "random",
    "rewind": "lr",
    "rewind_step": 3,
    "from_round_1": "x",
    "super_weights": "none",
    "allow_foreign": True,
    "follow": ["0,1,2"],
    "protect": "sw",
    "force_prune": "controls",
    "trace": "log",
    "lr": 1e-3,
    "lr_schedule": "cosine",
    "warmup": 3,
    "weight_decay": 0.0,
    "beta1": 0.8,
    "beta2": 0.99,
    "clip": 0.0,
    "dtype": "bfloat16",
    "device": "cpu",
    "compile": True,
    "threads": 2,
    "seed": 1,
    "data_seed": 1,
    "eval_steps": 9,
    "eval_sequences": 3,
}
OPERATIONAL = {
    "runs": "r",
    "plots": "p",
    "checkpoint_steps": 3,
    "checkpoint_seconds": 9.0,
    "rank_timeout": 9.0,
    "tracker": "wandb",
}


def named(**changes) -> str:
    return naming.name(TrainSettings(**changes), "gpt2", {})


def test_every_setting_that_changes_a_run_changes_its_name():
    assert {field.name for field in dataclasses.fields(TrainSettings)} == {*CHANGES, *OPERATIONAL}, "a new setting"
    names = [named()] + [named(**{name: value}) for name, value in CHANGES.items()]
    assert len(set(names)) == len(names)
    assert {named(**{name: value}) for name, value in OPERATIONAL.items()} == {named()}
    stems = [name.rpartition("-")[2] for name in names]
    assert len(set(stems)) == len(names) and all("/" not in name for name in names)


def test_a_number_of_tokens_names_a_run_as_before_there_was_auto(tmp_path):
    name = naming.name(TrainSettings(data_tokens="100000000", data="wikitext"), "gpt2", {})
    assert name == "gpt2-pretrained-p0.2-T300-d0-aa424ba7"
    assert naming.changed(TrainSettings(data_tokens="0010")) == {"data_tokens": 10}
    for source in ("builtin", str(tmp_path)):  # auto is all of it
        assert named(data=source, data_tokens="0") == named(data=source)
    assert named(data="wikitext", data_tokens="0") != named(data="wikitext")


def test_names_do_not_move():
    """A run is found again by its name, so that of a version must be that of the next; a path is no part of it."""
    assert named() == "gpt2-pretrained-p0.2-T300-d0-dee36ace"
    changes = {"seed": 1, "lr": 1e-3, "start": "scratch", "schedule": "0.1,0.2", "rounds": 2, "follow": ["2,447,666"]}
    assert naming.name(TrainSettings(**changes), "gpt2", {"super_weights": "ab"}) == "gpt2-schedule-T300-d0-4133010b"
    one, moved = (TrainSettings(super_weights=path) for path in ("a.json", "b.json"))
    assert naming.name(one, "gpt2", {"super_weights": "ab"}) == naming.name(moved, "gpt2", {"super_weights": "ab"})
    assert naming.name(one, "gpt2", {"super_weights": "ab"}) != naming.name(one, "gpt2", {"super_weights": "cd"})
