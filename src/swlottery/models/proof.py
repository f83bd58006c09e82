"""Forward passes that prove what a row says of a model, or refuse it.

Every block is given random hidden states, and then the ones that it has for random tokens. Shown is: what it returns is
what it was given, plus what attention adds, plus what its down-projection adds; and the down-projection's output is
Σ W·x + b of the matrices that are addressed. Then the network, run from its middle block on and from its last,
has to give the logits that it gives as a whole: ablations and large models are run so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from swlottery.errors import BadInput
from swlottery.models.down import DownProjection, Entered
from swlottery.models.offload import device_of
from swlottery.models.running import evaluating, keeping, resumed
from swlottery.models.table import Row
from swlottery.models.usual import MIXERS, has

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

SIZE = 0.1
"""The root mean square of the random hidden states: small, so that rounding them hides little of what is added."""

TOKENS = 16
ROUNDINGS = 4
"""So many units of the precision each term of a sum may be off."""

SEEN = 0.1
"""What is added is seen where a share of it as small as this would be."""

PRODUCT = 1e-4
"""A product of matrices may be off by this share, or by twice ROUNDINGS where the precision is lower."""


def prove(model: nn.Module, row: Row, blocks: Sequence[nn.Module], downs: Sequence[DownProjection]) -> None:
    """Prove the row on the model. Raises `BadInput` with what does not hold."""
    kind = model.config.model_type  # type: ignore[union-attr]
    try:
        with evaluating(model):
            wrong = _wrong(model, row, blocks, downs)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        wrong = f"what its modules are given or return is not as usual ({type(error).__name__}: {error})"
    if wrong:
        raise BadInput(
            f"the architecture '{kind}' has no row in swlottery/models/table.py, and that its parts are what their "
            f"usual names say is not proved: {wrong}"
        )


def _wrong(model: Any, row: Row, blocks: Sequence[nn.Module], downs: Sequence[DownProjection]) -> str:
    """What does not hold; nothing where all holds."""
    import torch

    vocabulary = model.config.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (2, TOKENS), generator=generator).to(device_of(model))
    weights = [id(part.weight) for down in downs for part in down.parts]
    if len(set(weights)) < len(weights):
        return "several blocks have the same down-projection"
    places = sorted({len(blocks) // 2, len(blocks) - 1} - {0})
    returned: dict[int, Any] = {}
    seen: list[set[str]] = [set() for _ in downs]
    with torch.no_grad():
        for random in (generator, None):
            watched = [Watched(down, row, random) for down in downs]
            with ExitStack() as stack:
                for one in watched:
                    stack.enter_context(one.hooked())
                returned.clear()
                stack.enter_context(keeping(blocks, places, returned))
                logits = model(input_ids=ids, use_cache=False).logits.float()
            for nth, one in enumerate(watched):
                if wrong := one.wrong():
                    return f"in block {nth} {wrong}"
                seen[nth] |= one.seen
        for nth, names in enumerate(seen):
            if unseen := sorted({"attention", "the MLP", "the stream"} - names):
                return f"in block {nth} what {unseen[0]} adds is not seen above rounding (--dtype float32 rounds less)"
        for place in places:
            with resumed(blocks, place, returned[place]):
                again = model(input_ids=ids, use_cache=False).logits.float()
            if not float((again - logits).abs().max()) <= 1e-3 * float(logits.abs().max()):
                return f"run from block {place} on, with what the block before it returned, it predicts something else"
    return ""


class Watched:
    """One block in a forward pass: what enters it, what is added, and what leaves it, each ``[tokens, channels]``.

    random: it is given random hidden states from this generator; None: its own.
    """

    def __init__(self, down: DownProjection, row: Row, random: torch.Generator | None) -> None:
        self.down, self.random, self.calls = down, random, 0
        names = [row.adds] if row.adds else MIXERS
        self.mixers = [module for name in names if (module := has(down.block, name)) is not None]
        self.mixed: dict[int, tuple[Any, Tensor]] = {}  # by id: what each mixer returned, and what of it is added
        self.added: Tensor | None = None
        self.seen: set[str] = set()  # of what is added
        self.silent: set[str] = set()  # the block's modules that are not called

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """With hooks that note all this."""
        block, down = self.down.block, self.down
        with ExitStack() as stack:
            stack.enter_context(block.register_forward_pre_hook(self._start, with_kwargs=True))
            for name, child in block.named_children():
                self.silent |= {name} if next(child.parameters(), None) is not None else set()
                stack.enter_context(child.register_forward_hook(partial(self._called, name)))
                hook = self._after_mixer if child not in self.mixers else self._mixer
                stack.enter_context(child.register_forward_hook(hook))
            for mixer in self.mixers:
                if mixer not in list(block.children()):
                    stack.enter_context(mixer.register_forward_hook(self._mixer))
            stack.enter_context(down.hooked(self._projected))
            if down.post_norm is not None:
                stack.enter_context(down.post_norm.register_forward_hook(self._normed))
            stack.enter_context(block.register_forward_hook(self._end))
            yield

    def _start(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        import torch

        self.calls += 1
        hidden = args[0] if args else kwargs["hidden_states"]
        if self.random is not None:
            hidden = (SIZE * torch.randn(hidden.shape, generator=self.random)).to(hidden)
        self.entered = _flat(hidden)
        return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

    def _called(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        self.silent.discard(name)

    def _mixer(self, module: nn.Module, args: Any, output: Any) -> None:
        output = output[0] if isinstance(output, tuple) else output
        self.mixed[id(output)] = output, _flat(output)

    def _after_mixer(self, module: nn.Module, args: Any, output: Any) -> None:
        """A norm, or the like, that is given what a mixer returned: its output is added in its place."""
        if args and id(args[0]) in self.mixed:
            del self.mixed[id(args[0])]
            self.mixed[id(output)] = output, _flat(output)

    def _projected(self, entered: Entered, output: Tensor) -> None:
        import torch

        self.output = self.added = _flat(output)
        self.computed = torch.zeros(self.output.shape, device=output.device)
        for inputs in self.down.inputs(entered, torch.arange(len(self.output), device=output.device)):
            product = inputs.values.float() @ self.down.matrix(inputs.expert).t().float()
            if (bias := self.down.bias(inputs.expert)) is not None:
                product += bias.float() * (1.0 if inputs.scale is None else inputs.scale[:, None].float())
            self.computed.index_add_(0, inputs.tokens, product)

    def _normed(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.added = _flat(output)

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        import torch

        output = output[0] if isinstance(output, tuple) else output
        self.left, self.unit = _flat(output), torch.finfo(output.dtype).eps

    def wrong(self) -> str:
        """What does not hold; nothing where all holds."""
        import torch

        if self.calls != 1:
            return f"the block is called {self.calls} times"
        if self.added is None:
            return f"{self.down.path} is not called"
        if self.silent:
            return f"{', '.join(sorted(self.silent))} is not called (a decoder that lacks its encoder?)"
        if not self.mixed:
            return "nothing with a usual name mixes tokens"
        mixed = torch.stack([value for _, value in self.mixed.values()]).sum(dim=0)
        factor = self.down.multiplier
        terms = {"attention": factor * mixed, "the MLP": factor * self.added, "the stream": self.entered}
        rest = self.left - torch.stack([*terms.values()]).sum(dim=0)
        room = torch.stack([term.abs() for term in terms.values()]).sum(dim=0).clamp_min(1e-30)
        shares: dict[str, float] = {}
        # As shares of the room for rounding all entries count alike, massive ones too. Rounding goes up as often as
        # down, so that it hides less of a term in all than in a single entry.
        for name, term in terms.items():
            size = float((term / room).norm())
            hidden = self.unit * (1 + 2 * ROUNDINGS / max(size, 1e-30))
            if hidden <= SEEN:
                self.seen.add(name)
                share = _share(rest / room, term / room)
                shares[name] = share if not share <= hidden else 0.0
        if any(shares.values()):
            worst = max(shares, key=lambda name: shares[name])
            return f"what is added of {worst} is not once what it gives: there is a scale, or something else"
        if not bool((rest.abs() <= ROUNDINGS * self.unit * room).all()):
            return "something is added besides attention and the MLP"
        off, share = self.output - self.computed.cpu(), max(2 * ROUNDINGS * self.unit, PRODUCT)
        if not float(off.norm()) <= share * float(self.output.norm()) or not _share(off, self.output) <= share / 2:
            return f"the output of {self.down.path} is not W·x + b"
        return ""


def _flat(tensor: Tensor) -> Tensor:
    """A copy ``[tokens, channels]`` in float32, where everything is compared."""
    import torch

    return tensor.detach().reshape(2 * TOKENS, -1).to("cpu", torch.float32, copy=True)


def _share(rest: Tensor, term: Tensor) -> float:
    """How much of ``term`` is in the rest: the slope of a regression through the origin."""
    return abs(float((rest * term).sum() / (term * term).sum()))
