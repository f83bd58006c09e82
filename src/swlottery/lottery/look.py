"""The finder's look at a network in training: which super weights it has now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from swlottery.find import probe as probes
from swlottery.find.probe import Probe
from swlottery.find.trace import found_in
from swlottery.lottery.start import Network


def look(network: Network, prompts: Sequence[str] = probes.DEFAULT_PROMPTS) -> tuple[str, list[dict[str, Any]]]:
    """Run the finder on the network as it is: see `found_in`."""
    return found_in(network.model, network.roles.downs, probe_of(network, prompts))


def probe_of(network: Network, prompts: Sequence[str] = probes.DEFAULT_PROMPTS) -> Probe:
    """The probe of a network. Without BOS where the network has no row for it: then it never trained with one.

    Raises `BadInput` for prompts that the tokenizer or the network does not know.
    """
    tokenizer, rows = network.tokenizer, network.embedding_rows
    bos = "without" if (tokenizer.bos_token_id or 0) >= rows else "both"
    return probes.build(tokenizer, prompts, network.longest, bos, network.device, rows)
