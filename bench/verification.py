"""What does the verification cost, and do its early looks keep their error rate?

    python bench/verification.py [--model smollm2] [--eval-text builtin] [--eval-tokens 1024] [--threads 2]
    python bench/verification.py --simulate 2000 [--population 8192]

Prints the verdicts, and the forward tokens (tokens × blocks run ÷ blocks of the model) and seconds for verdicts and for
description. The blocks are counted with hooks, not by the finder. So the script also runs with the sources of an
earlier version, for a comparison: PYTHONPATH=OTHER/src python bench/verification.py.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

DESCRIPTION = ("restored", "dose", "row", "canceller")


@contextmanager
def counted(roles: Any, model: Any, blocks_run: Counter[str]) -> Iterator[None]:
    """Count the tokens that enter each forward pass, once for each down-projection that really runs."""
    tokens = [0]

    def begin(module: Any, args: Any, kwargs: Any) -> None:
        tokens[0] = kwargs["input_ids"].numel()

    with ExitStack() as hooks:
        hooks.enter_context(model.register_forward_pre_hook(begin, with_kwargs=True))
        for down in roles.downs:
            hooks.enter_context(down.module.register_forward_hook(lambda *_: blocks_run.update(now=tokens[0])))
        yield


def compare(arguments: argparse.Namespace) -> None:
    """The verdicts of a model, and what they took."""
    from swlottery.config import FindSettings
    from swlottery.find.run import Ablation, Tested, examine
    from swlottery.models import load as models
    from swlottery.models.architectures import Roles
    from swlottery.models.coordinates import Coordinate

    loaded = models.load(arguments.model, dtype=arguments.dtype, device=arguments.device)
    roles = Roles(loaded.model)
    run, used, seconds, rows = Counter(now=0), Counter[str](), Counter[str](), Counter[str]()
    clock = [0.0]

    def observe(event: Any) -> None:
        if isinstance(event, Ablation):
            what = "description" if event.kind in DESCRIPTION else "verdicts"
            used[what] += run["now"]
            seconds[what] += time.perf_counter() - clock[0]
            rows[event.kind] += 1
        if isinstance(event, Tested | Ablation):
            run["now"], clock[0] = 0, time.perf_counter()

    settings = FindSettings(eval_text=arguments.eval_text, eval_tokens=arguments.eval_tokens, null_draws=1)
    with counted(roles, loaded.model, run):
        record = examine(loaded, settings, observe=observe)
    print(f"{arguments.model}, {loaded.dtype}, {record['documents']} documents, {record['eval_tokens']:,} tokens\n")
    for weight in record["super_weights"]:
        low, high = weight["nll_difference_interval"]
        effect = f"{weight['nll_difference']:+.4f} [{low:+.4f}, {high:+.4f}]"
        print(f"{Coordinate.of(weight)!s:<22}{weight['verdict']:<20}{effect}")
    print(f"\n{'':<14}{'forward tokens':>15}{'passes':>9}{'seconds':>9}")
    for what in ("verdicts", "description"):
        tokens = used[what] / len(roles.blocks)
        print(f"{what:<14}{tokens:>15,.0f}{tokens / record['eval_tokens']:>9.1f}{seconds[what]:>9.1f}")
    print("\nrows: " + ", ".join(f"{count} {kind}" for kind, count in rows.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--eval-text", default="builtin")
    parser.add_argument("--eval-tokens", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()

    import torch

    torch.set_num_threads(arguments.threads)
    compare(arguments)


if __name__ == "__main__":
    main()
