"""The finder's look at a network in training: which super weights it has now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from swlottery.config import KAPPA
from swlottery.find import probe as probes
from swlottery.find.activations import activations
from swlottery.find.attribution import leader
from swlottery.find.search import search
from swlottery.lottery.start import Network


def look(network: Network, prompts: Sequence[str] = probes.DEFAULT_PROMPTS) -> tuple[str, list[dict[str, Any]]]:
    """Run the finder on the network as it is: (``super_weight``, those found) or (``leader``, the one).

    Each with layer, expert, out, in, value, spike ratio, share, and what it lacks to be a super weight.
    """
    fitting = [_cut(network.tokenizer, prompt, network.longest - 1) for prompt in prompts]
    probe = probes.build(network.tokenizer, fitting, network.longest, device=network.device)
    downs = network.roles.downs
    result = search(network.model, downs, probe)
    if result.removals:
        given = [(removal.found, removal.spike, list[str]()) for removal in result.removals]
    else:
        led = leader(activations(network.model, downs, probe))
        given = [(led.contribution, led.entry, led.lacks(KAPPA))]
    return "super_weight" if result.removals else "leader", [
        {
            **one.coordinate.entry(),
            "value": one.value,
            "ratio": spike.ratio,
            "share": one.share,
            "lacks": lacks,
        }
        for one, spike, lacks in given
    ]


def _cut(tokenizer: Any, prompt: str, longest: int) -> str:
    """The prompt, or as much of its start as fits a model of very short context."""
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    return prompt if len(ids) <= longest else str(tokenizer.decode(ids[:longest]))
