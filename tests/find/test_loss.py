"""The loss of each token: in parts as whole, and never more logits than allowed."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from swlottery.find import ablation
from swlottery.find.ablation import Evaluator
from swlottery.models.architectures import Roles
from tiny import VOCABULARY, tiny_model


def documents(rows: int = 3, length: int = 11) -> torch.Tensor:
    return torch.randint(VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", "opt", "mixtral"])
def test_in_parts_it_is_what_the_whole_logits_give(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gemma's cap on the logits too."""
    model, ids = tiny_model(kind), documents()
    blocks = Roles(model).blocks
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits.float()
    expected = functional.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
    torch.testing.assert_close(ablation.token_losses(model, blocks, ids), expected)
    made: list[int] = []
    model.get_output_embeddings().register_forward_hook(lambda _, __, output: made.append(output.numel()))
    runs: list[object] = []
    blocks[0].register_forward_hook(lambda _, __, output: runs.append(output))
    monkeypatch.setattr(ablation, "LOGITS", 4 * 3 * VOCABULARY)
    torch.testing.assert_close(ablation.token_losses(model, blocks, ids), expected)
    assert made == [4 * 3 * VOCABULARY] * 2 + [2 * 3 * VOCABULARY]
    assert runs[1] is runs[2] is not runs[0], "the blocks run once, and return the same afterwards"
    assert "forward" not in blocks[0].__dict__


def test_an_ablation_runs_from_its_block_on_in_parts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from swlottery.models.coordinates import Coordinate

    model, found = tiny_model("llama"), [Coordinate(1, 3, 5)]
    whole = Evaluator(model, Roles(model), documents(32, 16), [1])
    monkeypatch.setattr(ablation, "LOGITS", 5 * VOCABULARY)
    parts = Evaluator(model, Roles(model), documents(32, 16), [1])
    assert parts.baseline == pytest.approx(whole.baseline, rel=1e-6)
    assert parts.nll(found) == pytest.approx(whole.nll(found), rel=1e-6)
