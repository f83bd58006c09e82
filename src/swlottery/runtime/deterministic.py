"""Strictly deterministic stretches of a run: its training steps and held-out losses.

`environment.pin` only warns of an operation that has no deterministic form, and then attention on a GPU adds up its gradients
in whatever order threads come. Under the strict mode it does not, but an operation without such a form is an error there;
outside of training some are needed (the finder's medians), and have no part in any weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from swlottery.errors import BadInput
from swlottery.runtime.ranks import Ranks

if TYPE_CHECKING:
    import torch


@contextmanager
def strict() -> Iterator[None]:
    """Deterministic algorithms without exception; behind it all is as it was before."""
    import torch

    before = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)


class Deterministic:
    """Where a network is `strict`ly deterministic: always, if it is known to bear it, else as `here` finds out.

    who: its name. possible: whether every operation of it has a deterministic form on the device; None: not known.
    """

    def __init__(self, who: str, device: torch.device, ranks: Ranks, possible: bool | None) -> None:
        self.who, self.device, self.ranks, self.possible = who, device, ranks, possible

    @contextmanager
    def here(self, trial: Callable[[], object]) -> Iterator[None]:
        """One stretch. trial: does once what the network does in training, where nothing is known of it.

        Raises `BadInput` for an operation that has no deterministic form after all.
        """
        if self.possible is None:
            self.possible = not any(self.ranks.gather(self._refused(trial)))
        if not self.possible:
            yield
            return
        try:
            with strict():
                yield
        except RuntimeError as error:
            if name := refused(error):
                raise BadInput(
                    f"{name} has no deterministic form on {self.device}, and {self.who} needs it: train on another device "
                    "(--device cpu), or with another version of torch"
                ) from None
            raise

    def _refused(self, trial: Callable[[], object]) -> str:
        try:
            with strict():
                trial()
        except RuntimeError as error:
            if name := refused(error):
                print(f"note: {name} has no deterministic form on {self.device}: started again, a run gets other bits")
                return name
            raise
        return ""


def refused(error: RuntimeError) -> str:
    """The operation that torch refused, for an error of its that says so; else nothing."""
    name, found, _ = str(error).partition(" does not have a deterministic implementation")
    return name.rpartition("\n")[2] if found else ""
