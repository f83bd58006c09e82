"""Training under a mask: the loss, the schedule, and one step of AdamW that leaves masked weights at zero.

A masked weight is zero when a round starts. Its gradient is set to zero before anything looks at gradients, so it adds
nothing to the norm that clipping measures, its moments stay zero, its update 0/(√0 + ε) is zero and its weight decay
is a part of zero: it stays exactly zero without a second look at the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from swlottery.config import TrainSettings
from swlottery.data.batches import Batches, sent
from swlottery.errors import BadInput
from swlottery.lottery import masks as masking
from swlottery.lottery.masks import Masks
from swlottery.lottery.start import Network
from swlottery.runtime import hardware
from swlottery.runtime.deterministic import Deterministic
from swlottery.runtime.gradients import Gradients
from swlottery.runtime.ranks import Ranks
from swlottery.runtime.stop import Asked, Stopped, never

if TYPE_CHECKING:
    from torch import Tensor

    from swlottery.data.batches import TokenArray


class NotFinite(BadInput):
    """The loss or the gradient is NaN or infinite. No weight has been touched by it."""


def learning_rate(settings: TrainSettings, step: int, round_: int) -> float:
    """η at the step after ``step`` steps of a round.

    Rewinding ``none`` trains on at the constant final rate; the other kinds replay the schedule from step k.
    """
    last = settings.steps - 1
    if settings.rewind == "none" and round_ > 1:
        step = last
    if step < settings.warmup:
        return settings.lr * (step + 1) / settings.warmup
    if settings.lr_schedule == "constant":
        return settings.lr
    progress = (step - settings.warmup) / max(1, last - settings.warmup)
    return settings.lr * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress)))


def batch_number(settings: TrainSettings, step: int, round_: int) -> int:
    """Which batch the step after ``step`` steps reads: the same each round, or fresh ones."""
    return step if settings.data_order == "same" else step + (round_ - 1) * settings.steps


def loss_of(model: Any, tokens: Tensor) -> Tensor:
    """Mean negative log-likelihood in nats of ``tokens[n, context + 1]``, each token from those before it."""
    from torch.nn import functional

    logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
    return functional.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())


class Training:
    """The weights in training: AdamW's moments, the mask, and the step, of which each rank does its part.

    dtype: of matrix products; None: what the settings ask for, on this device.
    """

    def __init__(
        self,
        network: Network,
        masks: Masks,
        settings: TrainSettings,
        data: TokenArray,
        ranks: Ranks | None = None,
        dtype: str | None = None,
    ) -> None:
        import torch

        from swlottery.lottery.attention import compiled, without_mask
        from swlottery.lottery.loss import has_plain_head, loss_in_parts

        self.network, self.settings, self.data = network, settings, data
        self.ranks = ranks or Ranks()
        self.parameters = {name: p for name, p in network.parameters.items() if p.requires_grad}
        self.device = next(iter(self.parameters.values())).device
        self.dtype = dtype or hardware.precision(settings.dtype, self.device)[0]
        self.batches = Batches(data, network.context, settings, self.ranks, self.device, network.prefix)
        self.gradients = Gradients(self.parameters.values(), self.ranks.size)
        self.set_masks(masks)
        matrices = [p for p in self.parameters.values() if p.ndim >= 2]
        others = [p for p in self.parameters.values() if p.ndim < 2]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=settings.lr,
            betas=(settings.beta1, settings.beta2),
            fused=True,
        )
        self.plain_loss: Callable[[Any, Tensor], Tensor] = loss_in_parts if has_plain_head(network.model) else loss_of
        self.loss = compiled(self.plain_loss) if settings.compile else self.plain_loss
        if self.device.type != "cpu":
            self.plain_loss = without_mask(self.plain_loss, network.model, network.context)
        if settings.compile or self.device.type != "cpu":
            self.loss = without_mask(self.loss, network.model, network.context)
        # All that GPT-2 is made of has a deterministic form; of other models on a GPU it is found out.
        known = self.device.type == "cpu" or network.model.config.model_type == "gpt2"
        self.deterministic = Deterministic(network.name, self.device, self.ranks, known or None)

    def set_masks(self, masks: Masks) -> None:
        """Train under these masks from now on. Tensors where nothing is masked cost nothing."""
        import torch

        self.masks = {name: mask.to(self.device) for name, mask in masks.items()}
        partly = {name: mask for name, mask in self.masks.items() if not bool(mask.all())}
        # As bytes: a CPU multiplies by them twice as fast as by bools, which it does not vectorise.
        self.masked = [(self.parameters[name], mask.view(torch.uint8)) for name, mask in partly.items()]

    def check_masked(self) -> None:
        """Masked weights are exactly zero; anything else is a defect of this class."""
        if masking.violations(self.masks, self.parameters):
            raise AssertionError("a masked weight is not zero: a defect of the training loop")

    def forget_moments(self) -> None:
        """Start a round with fresh moments."""
        self.optimizer.state.clear()

    def step(self, step: int, round_: int, see: Callable[[], None] | None = None) -> tuple[float, float]:
        """The step after ``step`` steps of a round. Returns the mean loss of its batch and the gradient's norm.

        see: called when the gradients are complete and masked, before they are clipped.

        Raises:
            NotFinite: the loss or the gradient is NaN or infinite; the weights are as before.
            BadInput: the model needs an operation that has no deterministic form.
        """
        import torch

        passes = self.batches.passes(batch_number(self.settings, step, round_))
        with self.deterministic.mode(lambda: self._try(passes[0])):
            losses = self._gradients(passes)
            if see is not None:
                see()
            norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters.values() if p.grad is not None])
            self.batches.prepare(batch_number(self.settings, step + 1, round_))
            mean, size = torch.stack([torch.stack(losses).sum(), norm]).tolist()  # the only wait for a GPU
            (mean,) = self.ranks.add(mean)
            if not (math.isfinite(mean) and math.isfinite(size)):
                raise NotFinite(
                    f"the {'gradient' if math.isfinite(mean) else 'loss'} is not finite at step {step + 1} of round "
                    f"{round_}: lower --lr, or clip harder; the last good checkpoint is kept"
                )
            if self.settings.clip:
                torch.nn.utils.clip_grads_with_norm_(self.parameters.values(), self.settings.clip, norm)
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self.settings, step, round_)
            self.optimizer.step()
        return mean, size

    def _gradients(self, passes: Sequence[Tensor]) -> list[Tensor]:
        """The gradients of the whole batch, added over all ranks and masked. Returns this rank's parts of the loss."""
        losses = []
        self.gradients.clear()
        for number, tokens in enumerate(passes, 1):
            with self._precision():
                loss = self.loss(self.network.model, tokens) / self.settings.grad_accum
            if number == len(passes):
                self.gradients.last()
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        self.ranks.add_gradients(self.gradients)
        for parameter, mask in self.masked:
            assert parameter.grad is not None
            parameter.grad.mul_(mask)
        return losses

    def evaluate(self, windows: Tensor, asked: Asked = never) -> float:
        """Mean loss in nats a token over held-out ``windows[n, context + 1]``; `Stopped` where that was asked for."""
        import torch

        losses, sizes = [], []
        with self.deterministic.mode(lambda: self._try(windows)), torch.no_grad(), self._precision():
            for part in torch.split(windows, self.settings.micro_batch)[self.ranks.rank :: self.ranks.size]:
                if asked():
                    break
                losses.append(self.plain_loss(self.network.model, sent(part, self.device)))
                sizes.append(len(part))
        values = torch.stack(losses).tolist() if losses else []
        total = sum(loss * size for loss, size in zip(values, sizes, strict=True))
        total, stopping = self.ranks.add(total, float(asked()))
        if stopping:
            raise Stopped
        return total / len(windows)

    def moments(self) -> dict[str, Tensor]:
        """AdamW's state as named tensors: ``m/<name>``, ``v/<name>``, ``t/<name>``."""
        names = {id(p): name for name, p in self.parameters.items()}
        found: dict[str, Tensor] = {}
        for parameter, state in self.optimizer.state.items():
            name = names[id(parameter)]
            found |= {f"m/{name}": state["exp_avg"], f"v/{name}": state["exp_avg_sq"], f"t/{name}": state["step"]}
        return found

    def set_moments(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `moments`, bit for bit."""
        self.forget_moments()
        for name, parameter in self.parameters.items():
            if f"m/{name}" in tensors:
                self.optimizer.state[parameter] = {
                    # A fused optimiser reads this number on the device too, where `load_state_dict` would put it.
                    "step": tensors[f"t/{name}"].to(self.device).clone(),
                    "exp_avg": tensors[f"m/{name}"].to(self.device).clone(),
                    "exp_avg_sq": tensors[f"v/{name}"].to(self.device).clone(),
                }

    def second_moments(self, names: Iterable[str]) -> dict[str, Tensor]:
        """AdamW's exponential average of squared gradients, by parameter name."""
        return {name: self.optimizer.state[self.parameters[name]]["exp_avg_sq"] for name in names}

    def _try(self, tokens: Tensor) -> None:
        """What a step does with one sequence, and leaves nothing behind."""
        with self._precision():
            loss = self.plain_loss(self.network.model, sent(tokens[:1], self.device))
        loss.backward()  # type: ignore[no-untyped-call]
        self.gradients.clear()

    def _precision(self) -> Any:
        import torch

        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == "bfloat16")
