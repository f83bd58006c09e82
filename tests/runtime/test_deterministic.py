"""Strict determinism: in training, and nowhere else."""

from __future__ import annotations

import pytest
import torch

from swlottery.errors import BadInput
from swlottery.runtime import environment
from swlottery.runtime.deterministic import Deterministic, strict
from swlottery.runtime.ranks import Ranks


def mode() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


PINNED, STRICT = (True, True), (True, False)


@pytest.fixture(autouse=True)
def pinned():
    environment.pin(1)
    assert mode() == PINNED


def refuse() -> None:
    """An operation that has no deterministic form on any device."""
    torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))


def made(possible: bool | None) -> Deterministic:
    return Deterministic("gpt9", torch.device("cpu"), Ranks(), possible)


def test_what_was_set_before_comes_back():
    with strict():
        assert mode() == STRICT
        assert not torch.utils.deterministic.fill_uninitialized_memory
    assert mode() == PINNED
    with pytest.raises(KeyError), strict():
        raise KeyError
    assert mode() == PINNED


def test_what_is_refused_is_named():
    with (
        pytest.raises(BadInput, match="put_ has no deterministic form on cpu, and gpt9 needs it: train on another"),
        made(True).mode(pytest.fail),
    ):
        refuse()
    assert mode() == PINNED
    with pytest.raises(RuntimeError, match="something else"), made(True).mode(pytest.fail):
        raise RuntimeError("something else")


def test_a_network_of_which_nothing_is_known_is_tried_once(capsys):
    tried = []
    good = made(None)
    for _ in range(2):
        with good.mode(lambda: tried.append(mode())):
            assert mode() == STRICT
    assert tried == [STRICT] and capsys.readouterr().out == ""


@pytest.mark.filterwarnings("ignore:put_ does not have")
def test_one_that_cannot_be_strict_goes_on_with_a_note(capsys):
    bad = made(None)
    for _ in range(2):
        with bad.mode(refuse):
            assert mode() == PINNED
            refuse()
    assert capsys.readouterr().out == (
        "note: put_ has no deterministic form on cpu: started again, a run gets other bits\n"
    )
