"""Strictly deterministic parts of a run: its training steps and held-out losses.

After `environment.pin`, torch only warns of an operation without a deterministic form, and attention on a GPU then adds
its gradients in varying order. In strict mode attention is deterministic, but such an operation is an error. Outside
of training a few are needed (the finder's medians), and no weight depends on them.
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
    """Deterministic algorithms without exception. On leaving, the mode is what it was before."""
    import torch

    before = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)


class Deterministic:
    """Makes the training of one network `strict`, where its operations allow that.

    who: the network's name. possible: whether each of its operations has a deterministic form on the device; None: not
    known, so that the first `mode` tries it.
    """

    def __init__(self, who: str, device: torch.device, ranks: Ranks, possible: bool | None) -> None:
        self.who, self.device, self.ranks, self.possible = who, device, ranks, possible

    @contextmanager
    def mode(self, trial: Callable[[], object]) -> Iterator[None]:
        """A context that is strict where that is possible. trial: runs the network once as in training.

        Raises:
            BadInput: an operation has no deterministic form although ``possible`` said so.
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
                    f"{name} has no deterministic form on {self.device}, and {self.who} needs it: train on another "
                    "device (--device cpu), or with another version of torch"
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
    """The name of the operation that torch refused in strict mode; empty for any other error."""
    name, found, _ = str(error).partition(" does not have a deterministic implementation")
    return name.rpartition("\n")[2] if found else ""
