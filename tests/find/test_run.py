"""The finder from end to end, of a model that is loaded already."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from swlottery.config import FindSettings
from swlottery.data.evaluation import Text
from swlottery.errors import BadInput
from swlottery.find import record as records
from swlottery.find import run as finder
from swlottery.find.generation import Generation
from swlottery.models import load as models
from swlottery.models.coordinates import Coordinate
from swlottery.models.lineage import weights_sha256
from swlottery.models.loaded import wrap
from tiny import tiny_model

TEXT = Text(
    "sentences", "\n\n".join(f"Sentence {i} of a text that nobody would read twice." for i in range(100)), "0" * 64
)
SETTINGS = FindSettings(null_draws=3, controls=2, eval_tokens=2000)


def test_a_loaded_model_has_the_record_of_its_name_and_stays_as_it_is(planted_gpt2, tmp_path):
    """It is in training, with dropout, and has gradients; afterwards too."""
    folder, coordinate = planted_gpt2
    tokenizer, mine = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).train()
    mine.transformer.h[0].eval()
    before, events = weights_sha256(mine), []
    record = finder.examine(wrap(mine, tokenizer), SETTINGS, TEXT, observe=events.append)
    by_name = finder.examine(models.load(str(folder), device="cpu"), SETTINGS, TEXT)
    assert record == {**by_name, "model": record["model"]}
    records.save(record, tmp_path / "record.json")
    assert [Coordinate.of(weight) for weight in record["super_weights"]] == [coordinate]
    assert mine.training and not mine.transformer.h[0].training and mine.transformer.h[1].training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in mine.parameters())
    assert weights_sha256(mine) == before == record["weights_sha256"]

    parts = [event for event in events if not isinstance(event, finder.Drawn | finder.Ablation)]
    kinds = [finder.Prepared, finder.Searched, finder.Tested, finder.Planned, Generation, Generation, finder.Finished]
    assert [type(event) for event in parts] == kinds
    assert sum(isinstance(event, finder.Drawn) for event in events) == 2 * SETTINGS.null_draws
    assert events[-1].record == record


def test_gradients_make_no_difference_to_any_part():
    """With a norm behind the MLP, which the nulls compute; what they make must not have a graph."""
    from planted import random_probe
    from swlottery.find import null
    from swlottery.find.activations import activations
    from swlottery.models.architectures import Roles
    from tiny import VOCABULARY

    draws = []
    for gradients in (False, True):
        model = tiny_model("gemma2").requires_grad_(gradients)
        downs = Roles(model).downs
        (kept,) = activations(model, downs[:1], random_probe(VOCABULARY))
        assert not any(tensor.requires_grad for tensor in (kept.output, kept.added, kept.stream))
        draws.append(list(null.draws(null.prepare([kept], []), "rows", 3)))
    assert draws[0] == draws[1]


def test_an_observer_that_fails_leaves_the_model_as_it_was(planted_gpt2):
    loaded = models.load(str(planted_gpt2[0]), device="cpu")

    def stop(event):
        if isinstance(event, finder.Ablation):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finder.examine(loaded, SETTINGS, TEXT, observe=stop)
    assert weights_sha256(loaded.model) == loaded.weights_sha256
    assert not any(module._forward_hooks or "forward" in module.__dict__ for module in loaded.model.modules())


def test_a_model_that_cannot_be_examined_is_refused():
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(BadInput, match=r"not finite: model\.layers\.0\.mlp\.down_proj\.weight"):
        wrap(model, None)
    assert wrap(tiny_model("llama"), None, "a/b").slug == "a__b"
