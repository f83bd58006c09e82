"""Gradients summed over all ranks while the last backward pass of a step still runs.

Not DistributedDataParallel: it rearranges its buckets after the first step, so with three ranks or more a resumed run
would add in another order and get other bits. Here the buckets never change and are sent in a fixed order, whichever
is complete first. A rank whose tokens reached no expert of a bucket sends zeros, so that all ranks send the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

BUCKET = 25 << 20
"""Bytes of gradients that are sent together; a larger tensor is sent alone."""


class Gradients:
    """The gradients of a step's parameters. On one rank they are as torch leaves them, and no hook is set.

    On several ranks each gradient is a view into its bucket, so that sending copies nothing, and a parameter without a
    gradient has zeros. Order of calls: `clear`, every backward pass, with `last` before the last one, and then
    `Ranks.add_gradients`.
    """

    def __init__(self, parameters: Iterable[Tensor], ranks: int) -> None:
        self.parameters = list(parameters)
        self.buckets = [_Bucket(part) for part in _parts(self.parameters)] if ranks > 1 else []
        self.sending, self.sent = False, 0
        self.works: list[Any] = []
        self.error: RuntimeError | None = None
        for bucket in self.buckets:
            for parameter in bucket.parameters:
                parameter.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                    lambda _, bucket=bucket: self._complete(bucket)
                )

    def clear(self) -> None:
        """Begin a step."""
        self.sending, self.sent, self.works, self.error = False, 0, [], None
        for parameter in self.parameters:
            parameter.grad = None
        for bucket in self.buckets:
            bucket.clear()

    def last(self) -> None:
        """The next backward pass is the step's last: buckets that it completes may be sent."""
        self.sending = True

    def finish(self) -> None:
        """Send what is left, and wait for all sums. `RuntimeError` where a rank is gone."""
        self._send(everything=True)
        if self.error is not None:
            raise self.error
        for work in self.works:
            work.wait()

    def _complete(self, bucket: _Bucket) -> None:
        if self.sending:
            bucket.missing -= 1
            self._send()

    def _send(self, everything: bool = False) -> None:
        import torch

        try:
            while self.sent < len(self.buckets) and (everything or not self.buckets[self.sent].missing):
                if self.error is None:
                    self.works.append(torch.distributed.all_reduce(self.buckets[self.sent].flat, async_op=True))
                self.sent += 1
        except RuntimeError as error:  # raised by `finish`, not inside a backward pass
            self.error = error


class _Bucket:
    """Some parameters, and one tensor with all their gradients. missing: how many gradients are not complete."""

    def __init__(self, parameters: list[Tensor]) -> None:
        import torch

        self.parameters = parameters
        self.flat = parameters[0].new_zeros(sum(p.numel() for p in parameters))
        sizes = [p.numel() for p in parameters]
        parts = torch.split(self.flat, sizes)
        self.views = [part.view(p.shape) for p, part in zip(parameters, parts, strict=True)]
        self.missing = len(parameters)

    def clear(self) -> None:
        self.flat.zero_()
        self.missing = len(self.parameters)
        for parameter, view in zip(self.parameters, self.views, strict=True):
            parameter.grad = view


def _parts(parameters: list[Tensor]) -> list[list[Tensor]]:
    """The parameters from last to first, as a backward pass reaches them, in parts of `BUCKET` bytes."""
    parts: list[list[Tensor]] = []
    size = 0
    for parameter in reversed(parameters):
        bytes_ = parameter.numel() * parameter.element_size()
        if not parts or size + bytes_ > BUCKET or parts[-1][0].dtype != parameter.dtype:
            parts.append([])
            size = 0
        parts[-1].append(parameter)
        size += bytes_
    return parts
