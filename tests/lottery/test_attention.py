"""Attention without a mask in compiled training: one graph, the same numbers, and nothing of it in any file."""

from __future__ import annotations

import functools

import pytest
import torch

from lottery.runs import built, events
from swlottery.lottery import attention
from swlottery.lottery.training import Training
from tiny import tiny_model


def attentions(graph: torch.fx.GraphModule) -> list:
    """The calls of torch's attention, in this graph and those inside it."""
    modules = [module for module in graph.modules() if isinstance(module, torch.fx.GraphModule)]
    return [n for module in modules for n in module.graph.nodes if "scaled_dot_product_attention" in str(n.target)]


def test_a_compiled_lottery_is_one_graph_without_a_mask_and_ends_as_without(tiny_gpt2, text, tmp_path, monkeypatch):
    """In two trainings, their evaluations and a prune. What torch makes of the graph is left out: equal bits."""
    graphs, names, real, real_step = [], [], torch.compile, Training.step

    def capture(graph, inputs):
        graphs.append(graph)
        names.append(run.network.model.config._attn_implementation)
        return graph.forward

    def step(self, *given):
        result = real_step(self, *given)
        names.append(self.network.model.config._attn_implementation)
        return result

    monkeypatch.setattr(torch, "compile", functools.partial(real, backend=capture, fullgraph=True))
    monkeypatch.setattr(Training, "step", step)
    ends = {}
    for compiled in (False, True):
        torch._dynamo.reset()
        names.clear()
        run = built(tiny_gpt2, text, tmp_path / str(compiled), compile=compiled, rounds=1, steps=2, eval_steps=1)
        run.run()
        evaluations = events(run.keeper.folder, "evaluation")
        ends[compiled] = [[event[name] for name in ("train_loss", "val_loss")] for event in evaluations]
    assert ends[True] == ends[False] and len(ends[True]) == 6
    assert len(graphs) == 1, "no break, and no other graph for another step, round or mask"
    found = attentions(graphs[0])
    assert len(found) == 2, "of two layers"
    for node in found:
        assert node.kwargs["attn_mask"] is None and node.kwargs["is_causal"] is True
    assert names == [attention.NAME] + ["sdpa"] * 4, "ours while the loss is computed, and at no other time"
    files = [path for path in run.keeper.folder.rglob("*") if path.is_file()]
    assert {path.parent.name for path in files if path.name == "config.json"} == {"final", "round_1"}
    assert not [path for path in files if attention.NAME.encode() in path.read_bytes()]


FITTING = ("gpt2", "gpt_neox", "opt", "llama", "mistral", "mixtral", "qwen3", "gemma3", "phi3")


@pytest.mark.parametrize("name", [*FITTING, "gpt_neo", "bloom", "falcon"])
def test_it_is_for_models_in_which_it_changes_nothing(name):
    """Shared keys (Llama), own scales (Gemma 3) and experts go; positions in the scores (BLOOM, Falcon) do not."""
    model = tiny_model(name)
    assert attention.fits(model, 64) == (name in FITTING)
    assert model.config.get_text_config()._attn_implementation in ("sdpa", "eager")


@pytest.mark.parametrize(("context", "fits"), [(32, True), (48, False)])
def test_a_window_is_seen_at_the_full_length(context, fits):
    model = tiny_model("mistral")
    model.config.sliding_window = 40
    assert attention.fits(model, context) == fits


def test_the_name_goes_when_something_fails():
    model = tiny_model("gpt2")
    with pytest.raises(RuntimeError), attention.causal(model):
        assert model.config._attn_implementation == attention.NAME
        raise RuntimeError
    assert model.config._attn_implementation == "sdpa"
