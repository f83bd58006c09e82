"""`import swlottery`: the library, its page docs/api.md, and that importing it changes nothing of the process."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import swlottery
from swlottery import BadInput, TrainSettings
from swlottery.models.coordinates import Coordinate

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "api.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
FUNCTIONS = [name for name in swlottery.__all__ if name[0].islower()]


def run(code: str, **variables: Any) -> dict[str, Any]:
    exec(compile(code, "docs/api.md", "exec"), variables)
    return variables


@pytest.fixture
def model():
    """A tiny GPT-2 with random weights."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=257, n_positions=512, n_embd=32, n_layer=2, n_head=2))


# --- importing


def test_importing_changes_nothing_of_the_process() -> None:
    code = """
import os, signal, sys
before = dict(os.environ), {n: signal.getsignal(n) for n in signal.valid_signals()}
import swlottery
assert not {"torch", "transformers", "numpy", "scipy"} & set(sys.modules), "heavy"
for name in swlottery.__all__: getattr(swlottery, name)
assert not {"torch", "transformers", "numpy", "scipy"} & set(sys.modules), "heavy"
assert before == (dict(os.environ), {n: signal.getsignal(n) for n in signal.valid_signals()})
import torch
threads = torch.get_num_threads(), torch.get_num_interop_threads()
import swlottery.find.record, swlottery.lottery.loop, swlottery.cli, swlottery.commands.train
assert callable(swlottery.find), "the subpackage of that name hides nothing"
assert before == (dict(os.environ), {n: signal.getsignal(n) for n in signal.valid_signals()})
assert threads == (torch.get_num_threads(), torch.get_num_interop_threads())
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'fnd'"):
        _ = swlottery.fnd


def test_every_function_is_typed_explained_and_on_the_page() -> None:
    for name in FUNCTIONS:
        function = getattr(swlottery, name)
        signature = inspect.signature(function)
        assert all(parameter.annotation is not inspect.Parameter.empty for parameter in signature.parameters.values())
        assert signature.return_annotation is not inspect.Signature.empty
        assert "Raises:" in function.__doc__
        assert f"| `{name}(" in PAGE
    assert set(re.findall(r"^\| `(\w+)\(", PAGE, re.MULTILINE)) == set(FUNCTIONS)


# --- the page's examples, as they stand


def test_the_first_example_finds_the_super_weight(
    planted_gpt2: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-gpt2").symlink_to(planted_gpt2[0])
    text = "\n\n".join(f"Sentence {i} of a text that nobody would read twice." for i in range(100))
    (tmp_path / "held-out.txt").write_text(text)
    left = run(EXAMPLES[0])
    assert str(tuple(planted_gpt2[1])[:3]) in capsys.readouterr().out
    (weight,) = left["record"]["super_weights"]
    assert weight["verdict"] in ("critical", "jointly critical", "weak", "inert", "undetermined")

    by_name = swlottery.find("my-gpt2", eval_text="held-out.txt", eval_tokens=2000, null_draws=19, controls=4)
    same = ("weights_sha256", "super_weights", "nulls", "controls", "baseline_nll", "dtype", "device")
    assert {name: by_name[name] for name in same} == {name: left["record"][name] for name in same}
    assert {path.name for path in tmp_path.iterdir()} == {"my-gpt2", "held-out.txt"}, "nothing is written"


def test_the_second_example_prunes_and_tracks(capsys: pytest.CaptureFixture[str]) -> None:
    left = run(EXAMPLES[1])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and all(re.fullmatch(r"round \d: rank \d+, (kept|pruned)", line) for line in lines)
    model, masks = left["model"], left["masks"]
    total = sum(mask.numel() for mask in masks.values())
    remaining = total
    for _ in range(3):
        remaining -= remaining * 20 // 100
    assert sum(int(mask.sum()) for mask in masks.values()) == remaining
    for name, parameter in model.named_parameters():
        kept = parameter[masks[name]] if name in masks else parameter
        assert kept.equal(left["theta_0"][name][masks[name]] if name in masks else left["theta_0"][name])
        assert name not in masks or not parameter[~masks[name]].any()


# --- find


def test_a_loaded_model_is_afterwards_as_before(model: Any, tiny_gpt2: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"Sentence {i} of a text that nobody would read twice." for i in range(100)))
    model.train()
    model.lm_head.eval()
    next(model.parameters()).requires_grad_(False)
    weights = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    needed = [parameter.requires_grad for parameter in model.parameters()]
    settings = {"eval_text": str(text), "eval_tokens": 2000, "null_draws": 3, "controls": 2}
    record = swlottery.find(model, AutoTokenizer.from_pretrained(tiny_gpt2), **settings)
    assert record["super_weights"] == [] and record["leader"]["lacks"] and record["model"] == "gpt2"
    assert all(tensor.equal(weights[name]) for name, tensor in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    assert needed == [parameter.requires_grad for parameter in model.parameters()]
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("prompt", ["one prompt", ["one prompt"], ("one prompt",)])
def test_settings_are_taken_as_a_file_takes_them(prompt: Any, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One prompt is one, not one a letter; 50 is a fraction too, and a path is a text."""
    seen: list[Any] = []
    monkeypatch.setattr(
        importlib.import_module("swlottery.find.run"),
        "examine",
        lambda loaded, *given, **more: seen.append((given, more)),
    )
    swlottery.find(model, object(), prompt=prompt, kappa=50, eval_text=Path("a.txt"))
    (((settings,), more),) = seen
    assert more["prompts"] == ["one prompt"]
    assert (type(settings.kappa), settings.eval_text) == (float, "a.txt")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kapa": 3.0}, "kapa"),
        ({"eval_tokens": "many"}, "eval_tokens: 'many' is not a whole number"),
        ({"kappa": 1.0}, "must be at least 2"),
        ({"dtype": "float8"}, "choose from"),
        ({"out": "r.json"}, "writes nothing"),
        ({}, "needs its tokenizer"),
    ],
)
def test_what_find_refuses(settings: dict[str, Any], words: str, model: Any) -> None:
    with pytest.raises(BadInput, match=words):
        swlottery.find(model, None, **settings)
    with pytest.raises(BadInput, match="no such file or folder"):
        swlottery.find("./nowhere")


# --- prune, apply, track


@pytest.mark.usefixtures("no_figures")
def test_pruning_is_that_of_a_run(train_flags: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The masks of round 1 are those that `prune` makes of the network that round 1 has trained."""
    import torch
    from transformers import AutoModelForCausalLM

    monkeypatch.setenv("SWLOTTERY_CACHE", str(tmp_path / "cache"))
    given = dict(zip(*[iter(part.removeprefix("--") for part in train_flags())] * 2, strict=True))
    kinds = {
        field.name: {"int": int, "float": float}.get(str(field.type), str)
        for field in dataclasses.fields(TrainSettings)
    }
    chosen = {name.replace("-", "_"): kinds[name.replace("-", "_")](value) for name, value in given.items()}
    settings = TrainSettings(**chosen, seed=3)
    before = dataclasses.asdict(settings)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        folder = swlottery.train(settings, tmp_path)
        assert torch.get_num_threads() == 2, "a run has threads of its own"
    finally:
        torch.set_num_threads(threads)
    assert dataclasses.asdict(settings) == before and folder.parent == tmp_path / "runs"
    assert json.loads((folder / "status.json").read_text())["state"] == "finished"
    assert swlottery.train(settings, tmp_path) == folder, "it is done, and only looked up"
    branch = dataclasses.replace(settings, prune_rate="0.4", from_round_1=str(folder))
    assert swlottery.train(branch, tmp_path) not in (folder, None)

    trained = AutoModelForCausalLM.from_pretrained(folder / "round_1")
    pruned = swlottery.prune(trained, "0.2", seed=3)
    stored = swlottery.load_masks(folder, 1)
    assert pruned.keys() == stored.keys() and all(pruned[name].equal(stored[name]) for name in stored)
    assert all(mask.all() for mask in swlottery.load_masks(folder, 0).values())
    with pytest.raises(BadInput, match="no masks of round 9"):
        swlottery.load_masks(folder, 9)


def test_masked_weights_stay_zero_under_an_optimizer_that_has_moments(model: Any) -> None:
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    batch = torch.arange(32).view(2, 16)
    model(input_ids=batch, labels=batch).loss.backward()
    optimizer.step()
    masks = swlottery.prune(model, 0.5, scope="mlp", criterion="layer-magnitude")
    swlottery.apply(masks, model)
    for name, parameter in model.named_parameters():
        if name in masks:
            assert abs(int(masks[name].sum()) * 2 - masks[name].numel()) <= 1
            assert not parameter[~masks[name]].any() and not parameter.grad[~masks[name]].any()
            assert parameter.grad[masks[name]].any()
    optimizer.step()
    moved = dict(model.named_parameters())
    assert any(moved[name][~mask].any() for name, mask in masks.items()), "moments move them"
    swlottery.apply(masks, model)
    assert not any(moved[name][~mask].any() for name, mask in masks.items())


def test_a_row_says_where_a_weight_is_in_its_matrix(model: Any) -> None:
    import torch

    weight = model.transformer.h[1].mlp.c_proj.weight  # [in, out]
    with torch.no_grad():
        weight[7, 3] = -100.0
        weight[8, 3] = 0.0
    masks = swlottery.prune(model, 0.1)
    largest, smallest = swlottery.track(model, [(1, 3, 7), (1, 3, 8)], masks)
    size = weight.numel()
    at = {"layer": 1, "out": 3, "expert": None}
    assert largest == {
        **at,
        "in": 7,
        "value": -100.0,
        "rank": 1,
        "percentile_matrix": 100 * (size - 0.5) / size,
        "alive": True,
    }
    assert smallest == {**at, "in": 8, "value": 0.0, "rank": size, "percentile_matrix": 50 / size, "alive": False}
    assert [row["alive"] for row in swlottery.track(model, [(1, 3, 7), (1, 3, 8)])] == [True, True]
    for place in [(2, 0, 0), (0, 32, 0), (0, 0, 128), (0, 0, 0, 1)]:
        with pytest.raises(BadInput, match=re.escape(f"the model has no weight {Coordinate(*place)}")):
            swlottery.track(model, [place])
    with pytest.raises(BadInput, match=re.escape("(-1, 0, 0) is no coordinate")):
        swlottery.track(model, [(-1, 0, 0)])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rate": 1.5}, "not between 0 and 1"),
        ({"scope": "heads"}, "no scope heads: choose from attn"),
        ({"criterion": "size"}, "no criterion size: choose from global-magnitude"),
        ({"scope": "mlp", "masks": "attn+c_proj"}, "not in scope"),
        ({"scope": "linear", "masks": "mlp"}, "another scope"),
    ],
)
def test_what_prune_refuses(changes: dict[str, Any], words: str, model: Any) -> None:
    if "masks" in changes:
        changes = changes | {"masks": swlottery.prune(model, 0.1, scope=changes["masks"])}
    with pytest.raises(BadInput, match=words):
        swlottery.prune(model, **{"rate": 0.2, **changes})
    name, mask = next(iter(swlottery.prune(model, 0.1).items()))
    for wrong in ({"x": mask}, {name: mask[1:]}):
        with pytest.raises(BadInput, match="not this model's"):
            swlottery.apply(wrong, model)


def test_a_record_is_read(found_record: Path) -> None:
    assert swlottery.load_record(found_record) == json.loads(found_record.read_text())
    with pytest.raises(BadInput, match="cannot read the record"):
        swlottery.load_record("/nowhere.json")


def test_train_leaves_torch_and_the_environment_as_they_were(
    tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And 0.2 is the same setting as "0.2": the same folder."""
    import os

    import torch

    text = tmp_path / "text.txt"
    text.write_text("A text that is long enough for a few batches of this. " * 60)
    chosen = {
        "model": str(tiny_gpt2),
        "data": str(text),
        "context": 32,
        "micro_batch": 2,
        "steps": 2,
        "rounds": 1,
        "eval_sequences": 2,
        "threads": 1,
        "device": "cpu",
        "dtype": "float32",
        "super_weights": "none",
    }
    torch.use_deterministic_algorithms(False)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = dict(os.environ)
    folder = swlottery.train(TrainSettings(**chosen, prune_rate=0.2), tmp_path)
    assert not torch.are_deterministic_algorithms_enabled() and dict(os.environ) == before
    assert swlottery.train(TrainSettings(**chosen, prune_rate="0.2"), tmp_path) == folder
    (folder / "masks" / "round_1.safetensors").write_bytes(b"damaged")
    with pytest.raises(BadInput, match="is damaged"):
        swlottery.load_masks(folder, 1)
    with pytest.raises(BadInput, match=r"lr: 'x' is not a number"):
        swlottery.train(TrainSettings(**chosen, lr="x"), tmp_path)


@pytest.mark.parametrize("coordinate", [(0, 1), (0, 1, 2, -1), (0, 1, 2, 0), (0, -1, 2), (9, 1, 2)])
def test_what_track_refuses(coordinate: tuple[int, ...], model: Any) -> None:
    with pytest.raises(BadInput, match=r"no coordinate|no weight"):
        swlottery.track(model, [coordinate])


@pytest.mark.parametrize("rate", ["1/0", "-0.1", 1.5, "much"])
def test_rates_that_prune_refuses(rate: Any, model: Any) -> None:
    with pytest.raises(BadInput):
        swlottery.prune(model, rate)
