"""The gradients of several ranks: what is sent when. For the sums and exact resumes: tests/lottery/test_ranks.py."""

from __future__ import annotations

import pytest
import torch

from swlottery.runtime import gradients
from swlottery.runtime.gradients import Gradients


class Sent:
    """Stands for torch.distributed: every sum over ranks is twice what one of them has."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.waited = 0
        self.lost = False

    def all_reduce(self, tensor: torch.Tensor, async_op: bool) -> Sent:
        assert async_op
        if self.lost:
            raise RuntimeError("connection closed by peer")
        self.sizes.append(tensor.numel())
        tensor.mul_(2)
        return self

    def wait(self) -> None:
        self.waited += 1


@pytest.fixture
def sent(monkeypatch) -> Sent:
    one = Sent()
    monkeypatch.setattr(torch.distributed, "all_reduce", one.all_reduce)
    monkeypatch.setattr(gradients, "BUCKET", 4 * 100)
    return one


def network() -> dict[str, torch.Tensor]:
    """In the order of a model: 150, 60, 30 and 20 entries, of which a bucket takes 100."""
    torch.manual_seed(0)
    sizes = {"wte": (15, 10), "a": (60,), "b": (6, 5), "c": (20,)}
    return {name: torch.randn(size).requires_grad_() for name, size in sizes.items()}


def loss(p: dict[str, torch.Tensor], without: str = "") -> torch.Tensor:
    return sum((tensor**2).sum() for name, tensor in p.items() if name != without)


def test_buckets_go_as_they_become_complete_and_every_parameter_gets_the_sum(sent):
    parameters = network()
    shared = Gradients(parameters.values(), ranks=2)
    for _ in range(2):
        sent.sizes.clear()
        shared.clear()
        loss(parameters).backward()
        assert not sent.sizes, "more passes come"
        shared.last()
        loss(parameters).backward()
        before = list(sent.sizes)
        shared.finish()
        assert before == sent.sizes == [50, 60, 150]
        for tensor in parameters.values():
            torch.testing.assert_close(tensor.grad, 2 * 2 * 2 * tensor.detach())
    assert sent.waited == 2 * len(sent.sizes)


@pytest.mark.parametrize("without", ["wte", "a", "c"])
def test_a_rank_without_some_gradient_sends_the_same_pieces_in_the_same_order(without, sent):
    parameters = network()
    shared = Gradients(parameters.values(), ranks=2)
    shared.clear()
    shared.last()
    loss(parameters, without).backward()
    early = list(sent.sizes)
    assert early == sent.sizes[: len(early)] and len(early) < 3
    shared.finish()
    assert sent.sizes == [50, 60, 150]
    assert not parameters[without].grad.count_nonzero(), "zeros, not None: a mask is laid over it"


def test_a_lost_rank_is_told_by_the_wait_and_not_by_the_backward_pass(sent):
    parameters = network()
    shared = Gradients(parameters.values(), ranks=2)
    shared.clear()
    shared.last()
    sent.lost = True
    loss(parameters).backward()
    with pytest.raises(RuntimeError, match="closed by peer"):
        shared.finish()


def test_one_rank_has_no_hooks_and_no_buckets(monkeypatch):
    parameters = network()
    monkeypatch.setattr(torch.Tensor, "register_post_accumulate_grad_hook", pytest.fail)
    alone = Gradients(parameters.values(), ranks=1)
    alone.clear()
    assert all(tensor.grad is None for tensor in parameters.values()) and not alone.buckets
