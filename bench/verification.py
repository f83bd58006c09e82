"""What does the verification cost, and do its early looks keep their error rate?

    python bench/verification.py [--model smollm2] [--eval-text builtin] [--eval-tokens 1024] [--threads 2]
    python bench/verification.py --simulate 400

Prints the verdicts, and the forward tokens (tokens × blocks run ÷ blocks of the model) and seconds for verdicts and for
description. The blocks are counted with hooks, not by the finder. So the script also runs with the sources of an
earlier version, for a comparison: PYTHONPATH=OTHER/src python bench/verification.py.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from pathlib import Path
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
            module = down.output_module if hasattr(down, "output_module") else down.module  # of earlier versions
            hooks.enter_context(module.register_forward_hook(lambda *_: blocks_run.update(now=tokens[0])))
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
    run, used, rows = Counter(now=0), Counter[str](), Counter[str]()
    seconds, cpu, clock = Counter[str](), Counter[str](), [0.0, 0.0]

    def observe(event: Any) -> None:
        if isinstance(event, Ablation):
            what = "description" if event.kind in DESCRIPTION else "verdicts"
            used[what] += run["now"]
            seconds[what] += time.perf_counter() - clock[0]
            cpu[what] += time.process_time() - clock[1]
            rows[event.kind] += 1
        if isinstance(event, Tested | Ablation):
            run["now"], clock[:] = 0, (time.perf_counter(), time.process_time())

    settings = FindSettings(eval_text=arguments.eval_text, eval_tokens=arguments.eval_tokens, null_draws=1)
    with counted(roles, loaded.model, run):
        record = examine(loaded, settings, observe=observe)
    print(f"{arguments.model}, {loaded.dtype}, {record['documents']} documents, {record['eval_tokens']:,} tokens\n")
    for weight in record["super_weights"]:
        low, high = weight["nll_difference_interval"]
        effect = f"{weight['nll_difference']:+.4f} [{low:+.4f}, {high:+.4f}]"
        print(f"{Coordinate.of(weight)!s:<22}{weight['verdict']:<20}{effect}")
    print(f"\n{'':<14}{'forward tokens':>15}{'passes':>9}{'seconds':>9}{'of CPU':>9}")
    for what in ("verdicts", "description"):
        tokens = used[what] / len(roles.blocks)
        print(f"{what:<14}{tokens:>15,.0f}{tokens / record['eval_tokens']:>9.1f}{seconds[what]:>9.1f}{cpu[what]:>9.1f}")
    print("\nrows: " + ", ".join(f"{count} {kind}" for kind, count in rows.items()))


def simulate(arguments: argparse.Namespace) -> None:
    """How often looks claim what is not so, and what is so, beside one look at all documents.

    The documents' differences of found weights and of their controls are drawn with replacement, moved to a mean that
    is just no claim, or that is one by 4 standard errors (for the last claim: to 0).
    """
    import numpy as np

    from swlottery.config import KAPPA
    from swlottery.data.evaluation import quick, read_text
    from swlottery.find import effects
    from swlottery.find import probe as probes
    from swlottery.find.ablation import LOOKS, Evaluator
    from swlottery.find.controls import controls
    from swlottery.find.effects import CRITICAL, INERT, paired, part
    from swlottery.find.looks import is_clear
    from swlottery.find.search import search
    from swlottery.models import load as models
    from swlottery.models.architectures import Roles

    if arguments.differences:
        populations = json.loads(Path(arguments.differences).read_text(encoding="utf-8"))
    else:
        loaded = models.load(arguments.model, dtype=arguments.dtype, device=arguments.device)
        roles = Roles(loaded.model.eval())
        probe = probes.build(loaded.tokenizer, probes.DEFAULT_PROMPTS, loaded.context, "both", loaded.device)
        found = search(loaded.model, roles.downs, probe, KAPPA).coordinates
        text = read_text(arguments.eval_text)
        windows = quick(text, loaded.tokenizer, arguments.eval_tokens, loaded.context).windows
        evaluator = Evaluator(loaded.model, roles, windows, [coordinate.layer for coordinate in found])
        rows = [("found", one) for one in found] + [
            ("control", one) for one in controls(roles.downs, found, len(found))
        ]
        populations = [(kind, (evaluator.nll([one]) - evaluator.baseline).tolist()) for kind, one in rows]
    effects.RESAMPLES = 999
    claims: dict[str, tuple[float, float, Callable[[effects.Ablation], bool]]] = {
        "above 0": (0.0, 1, lambda row: row.low > 0),
        "above 0.1": (CRITICAL, 1, lambda row: row.low > CRITICAL),
        "inside ±0.01": (INERT, 0, lambda row: row.low > -INERT and row.high < INERT),
    }
    draw = np.random.default_rng(0)
    heads = f"{'wrong: looks':>13}{'one look':>10}{'right: looks':>14}{'one look':>10}{'documents':>11}"
    print(f"{'of':<9}{'claim':<14}{heads}")
    for kind in dict.fromkeys(kind for kind, _ in populations):
        for claim, (bound, side, claimed) in claims.items():
            counts = Counter[str]()
            for real in (np.array(values) for one, values in populations if one == kind):
                size, error = len(real), real.std(ddof=1) / len(real) ** 0.5
                for planted in (0, 1):
                    mean = bound + planted * (4 * error if side else -bound)
                    for _ in range(arguments.simulate):
                        sample = draw.choice(real, size) - real.mean() + mean
                        last = paired("", (), sample, np.zeros(size))
                        firsts = (part("", (), sample[: size // part_], range(size // part_)) for part_ in LOOKS[:-1])
                        settled = next((row for row in firsts if is_clear(row)), last)
                        counts[f"looks {planted}"] += claimed(settled)
                        counts[f"one {planted}"] += claimed(last)
                        counts[f"documents {planted}"] += len(settled.documents)
                        counts[f"{planted}"] += 1
            shares = [
                counts[f"{what} {planted}"] / counts[f"{planted}"] for planted in (0, 1) for what in ("looks", "one")
            ]
            cells = "".join(f"{share:>{width}.1%}" for share, width in zip(shares, (13, 10, 14, 10), strict=True))
            print(f"{kind:<9}{claim:<14}{cells}{counts['documents 1'] / counts['1']:>11.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--eval-text", default="builtin")
    parser.add_argument("--eval-tokens", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--simulate", type=int, default=0, metavar="DRAWS", help="of each population of differences")
    parser.add_argument("--differences", help="take them from this file: [[kind, [a document's, …]], …]")
    arguments = parser.parse_args()

    import torch

    torch.set_num_threads(arguments.threads)
    simulate(arguments) if arguments.simulate else compare(arguments)


if __name__ == "__main__":
    main()
