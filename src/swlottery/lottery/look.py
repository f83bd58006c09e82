"""The finder's look at a network in training: which super weights it has now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from swlottery.config import KAPPA
from swlottery.find import probe as probes
from swlottery.find.activations import activations
from swlottery.find.attribution import leader
from swlottery.find.probe import Probe
from swlottery.find.search import search
from swlottery.lottery.start import Network


def look(network: Network, prompts: Sequence[str] = probes.DEFAULT_PROMPTS) -> tuple[str, list[dict[str, Any]]]:
    """Run the finder on the network as it is: (``super_weight``, those found) or (``leader``, the one).

    Each with layer, expert, out, in, value, spike ratio, share, and what it lacks to be a super weight.
    """
    probe, downs = probe_of(network, prompts), network.roles.downs
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


def probe_of(network: Network, prompts: Sequence[str] = probes.DEFAULT_PROMPTS) -> Probe:
    """The probe of a network. Without BOS where the network has no row for it: then it never trained with one.

    Raises `BadInput` for prompts that the tokenizer or the network does not know.
    """
    tokenizer, rows = network.tokenizer, network.embedding_rows
    bos = "without" if (tokenizer.bos_token_id or 0) >= rows else "both"
    return probes.build(tokenizer, prompts, network.longest, bos, network.device, rows)
