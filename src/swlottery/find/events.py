"""What the finder says while it works: one value an event, in this order."""

from __future__ import annotations

from dataclasses import dataclass

from swlottery.data.evaluation import Documents, Text
from swlottery.find.attribution import Contribution, Leader
from swlottery.find.effects import Ablation
from swlottery.find.generation import Generation
from swlottery.find.null import Null
from swlottery.find.probe import Probe
from swlottery.find.record import Record
from swlottery.find.search import Search
from swlottery.find.spikes import Spike
from swlottery.models.coordinates import Coordinate


@dataclass(frozen=True)
class Prepared:
    """What the finder will look at.

    documents: of the text, to verify on. unknown: the fraction of their tokens that the tokenizer does not know.
    asked: weights to verify, found or not.
    """

    probe: Probe
    text: Text
    documents: Documents
    unknown: float = 0.0
    asked: tuple[Coordinate, ...] = ()


@dataclass(frozen=True)
class Searched:
    """The search is over. ``cancelling``: for each canceller that is verified, its largest contribution."""

    search: Search
    leader: Leader
    cancelling: list[tuple[Spike, Contribution]]


@dataclass(frozen=True)
class Drawn:
    """One of the ``total`` draws of a null is done."""

    kind: str
    total: int


@dataclass(frozen=True)
class Tested:
    """The nulls are complete. observed: the largest ratio of a spike that arrives, or of the leader's entry."""

    nulls: list[Null]
    observed: float


@dataclass(frozen=True)
class Planned:
    """What the verification will cost at most, in passes of the whole network over ``tokens`` tokens.

    passes: by what they are for, named as in the record's ``forward_tokens``. seconds: what the intact pass took.
    asked: whether it is that of the weights that were asked for and not found. published: the model whose published
    weights it is about.
    """

    passes: dict[str, float]
    tokens: int
    seconds: float
    asked: bool = False
    published: str = ""


@dataclass(frozen=True)
class Finished:
    """Everything is known."""

    record: Record


Event = Prepared | Searched | Drawn | Tested | Planned | Ablation | Generation | Finished
