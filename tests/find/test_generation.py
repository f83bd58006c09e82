"""What a network writes with and without its weights."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from sources import tokenizer_with
from swlottery.config import FindSettings
from swlottery.data.evaluation import Text
from swlottery.find import run as finder
from swlottery.find.generation import Generation, beginnings, generations, greedy, repeated_4grams, taken
from swlottery.models import load as models
from swlottery.models.architectures import Roles
from swlottery.models.coordinates import Coordinate
from tiny import VOCABULARY, shrunk_model, tiny_model

TEXT = Text("sentences", "\n\n".join(f"Sentence {i} of a text that nobody reads twice." for i in range(100)), "0" * 64)


@pytest.mark.parametrize(
    ("tokens", "rate"),
    [([], 0), ([1, 2, 3], 0), ([1, 2, 3, 4], 0), ([1, 1, 1, 1, 1], 0.5), ([1, 2] * 6, 7 / 9), (list(range(40)), 0)],
)
def test_the_rate_of_repeated_4grams(tokens: list[int], rate: float) -> None:
    assert repeated_4grams(tokens) == pytest.approx(rate)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bloom", "mixtral", "gemma3_text", "opt", "bamba"])
def test_it_is_the_most_likely_token_each_time_whatever_the_files_ask_for(kind: str) -> None:
    model = shrunk_model(kind).eval() if kind == "bamba" else tiny_model(kind)  # one without attention: no cache
    model.generation_config.repetition_penalty = 5.0
    ids = torch.randint(VOCABULARY, (3, 5), generator=torch.Generator().manual_seed(2))
    whole = ids
    for _ in range(6):
        with torch.no_grad():
            logits = model(input_ids=whole, use_cache=False).logits[:, -1:]
        whole = torch.cat([whole, logits.argmax(-1)], dim=1)
    assert torch.equal(greedy(model, ids, 6), whole[:, 5:])


def test_the_prompts_begin_as_texts_do_and_are_equally_long() -> None:
    prompts = ["first prompt", "second", "first prompt", "a third one", "the fourth one", "a fifth"]
    for before, start in (("", []), ("<s>", [0])):
        tokenizer = tokenizer_with(before)
        rows = beginnings(tokenizer, prompts, 1024)
        assert rows.shape == (4, 6 + len(start))
        assert [tokenizer.decode(row[len(start) :]) for row in rows] == ["first ", "second", "a thir", "the fo"]
        assert beginnings(tokenizer, prompts, 8).shape == (4, 4)


def test_the_weights_are_at_zero_only_while_it_writes() -> None:
    model, tokenizer = tiny_model("gpt2"), tokenizer_with()
    model.resize_token_embeddings(300)
    down = Roles(model).downs[0]
    sets = [(), (Coordinate(0, 3, 5),), (Coordinate(0, 3, 5), Coordinate(1, 2, 2))]
    before, seen = down.matrix(None)[3, 5].item(), []
    model.transformer.h[0].mlp.c_proj.register_forward_pre_hook(lambda *_: seen.append(down.matrix(None)[3, 5].item()))
    ids = beginnings(tokenizer, ["some words", "and more"], 64)
    for one, expected in zip(generations(model, Roles(model).downs, tokenizer, ids, 20, sets), sets, strict=True):
        assert one.coordinates == expected and down.matrix(None)[3, 5].item() == before
        assert set(seen) == {0.0 if expected else before}
        seen.clear()
        assert one.tokens == 12 and taken(ids, 20) == 2 * (8 + 11)


def test_the_record_has_it_for_none_all_and_each_that_matters(planted_gpt2: tuple, monkeypatch) -> None:
    """Bars so low that the planted weight is critical; without any weight there is nothing to compare."""
    from swlottery.find import verdicts, verify

    for module in (verdicts, verify):
        monkeypatch.setattr(module, "CRITICAL", 1e-4)
    folder, coordinate = planted_gpt2
    loaded, events = models.load(str(folder), device="cpu"), []
    settings = FindSettings(null_draws=3, controls=2, eval_tokens=1000)
    record = finder.examine(loaded, settings, TEXT, observe=events.append)
    (weight,) = record["super_weights"]
    assert weight["verdict"] == "critical"
    written = [event for event in events if isinstance(event, Generation)]
    assert [one.coordinates for one in written] == [(), (coordinate,)], "the one weight is all of them: done once"
    together = {"repeated_4grams": written[1].repeated_4grams, "text": written[1].text}
    assert weight["generation"] == record["generation"]["joint"] == together
    assert record["generation"]["intact"]["text"] == written[0].text
    assert len(record["generation"]["prompts"]) == 4 and record["generation"]["tokens"] == written[0].tokens
    none = finder.examine(loaded, dataclasses.replace(settings, kappa=1e6), TEXT)
    assert none["generation"] is None and none["super_weights"] == []
    asked = finder.examine(loaded, dataclasses.replace(settings, kappa=1e6, ablate=["0,3,7", "0,3,8"]), TEXT)
    assert asked["generation"]["joint"] and [one["generation"] for one in asked["ablated"]] == [None, None]
