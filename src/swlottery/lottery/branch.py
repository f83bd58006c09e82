"""Round 1 as a run stores it, for other runs to branch from: they are paired, and the dense training is paid once.

``round_1/`` is a folder that ``from_pretrained`` loads (so the finder takes it as well), with what is recorded of its
last step beside it.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from swlottery.config import TrainSettings, other_first_training
from swlottery.data.tokens import Tokens
from swlottery.errors import BadInput
from swlottery.find import trace as tracing
from swlottery.lottery import masks as masking
from swlottery.lottery import resolved
from swlottery.lottery.progress import Interval, Position
from swlottery.lottery.recorder import Snapshot
from swlottery.lottery.start import Network
from swlottery.models.lineage import weights_sha256
from swlottery.runtime import files, sums


def write(
    target: Path, network: Network, now: Snapshot, losses: list[float], trace: list[dict[str, Any]] | None
) -> None:
    """Store the trained network of round 1 in the folder ``target``. round.json comes last: with it all is there.

    trace: the rows of trace.csv, where round 1 was traced.
    """
    network.save(target)
    if trace is not None:
        tracing.write(target / "trace.csv", trace)
    kinds = {"g": now.gradients, "v": now.moments, "s": now.since}
    tensors = {f"{kind}/{name}": tensor for kind, named in kinds.items() for name, tensor in (named or {}).items()}
    files.write_tensors(target / "last_step.safetensors", tensors)
    content = {"losses": losses, "norm": now.norm, "weights_sha256": weights_sha256(network.model)}
    files.write_json(target / "round.json", content)


def read(source: Path, network: Network, position: Position, interval: Interval) -> None:
    """Set the network and what was gathered of its last step to what the folder ``source`` holds.

    Raises:
        BadInput: the network there is not the one that its round.json names.
    """
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    network.set_weights(dict(AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).named_parameters()))
    content = files.read_json(source / "round.json")
    if weights_sha256(network.model) != content["weights_sha256"]:
        raise BadInput(f"--from-round-1: the network in {source} is not the one that its round.json names")
    tensors = load_file(source / "last_step.safetensors", device=str(network.device))
    interval.gradients, interval.moments, interval.since = (
        {name[2:]: tensor for name, tensor in tensors.items() if name.startswith(kind)} for kind in ("g/", "v/", "s/")
    )
    interval.losses, position.norm = content["losses"], content["norm"]


def find_parent(folder: Path, settings: TrainSettings) -> Path:
    """The run that ``folder`` is, or one in it with this first training: a point of a sweep has a folder of runs."""
    found = []
    for path in sorted(folder.glob("*/round_1/round.json")):
        sums.check(path.parents[1] / "settings.json")
        with contextlib.suppress(OSError, ValueError, AttributeError, TypeError):
            stored = files.read_json(path.parents[1] / "settings.json")
            if _other(path.parents[1], stored, settings) is None:
                found.append((path.parents[1], stored))
    asked = (settings.dtype, settings.data_tokens)  # of several that would do, the one that was asked for the same
    same = [run for run, stored in found if (stored.get("dtype"), stored.get("data_tokens")) == asked]
    return next(iter([*same, *(run for run, _ in found)]), folder)


def check(parent: Path, settings: TrainSettings) -> dict[str, Any]:
    """What ``parent`` says of its first round; `BadInput` where this run cannot branch from it."""
    texts = ("settings.json", "environment.json", "metrics.jsonl", "round_1/round.json", "masks/round_0.safetensors")
    for name in texts:
        sums.check(parent / name)
    try:
        stored: dict[str, Any] = {**files.read_json(parent / "settings.json")}
        content: dict[str, Any] = {**files.read_json(parent / "round_1" / "round.json")}
        rewind_step, _ = stored["rewind_step"], content["weights_sha256"]
    except OSError as error:
        raise BadInput(
            f"--from-round-1 {parent}: no trained round-1 network there ({error.strerror}): {error.filename}"
        ) from None
    except (ValueError, TypeError, KeyError) as error:
        raise BadInput(
            f"--from-round-1 {parent}: its settings.json or round_1/round.json is damaged ({error})"
        ) from None
    if other := _other(parent, stored, settings):
        name, value = other
        raise BadInput(
            f"--from-round-1 {parent}: it was trained with {name} = {value}, this run has {getattr(settings, name)}; "
            "the first training must be the same"
        )
    if not all(bool(mask.all()) for mask in masking.load(parent / "masks" / "round_0.safetensors").values()):
        raise BadInput(
            f"--from-round-1 {parent}: it was trained with weights force-pruned from the start; branch from a run "
            "without --force-prune"
        )
    if settings.rewind_step not in (0, rewind_step):
        raise BadInput(
            f"--from-round-1 {parent}: it stored the weights of step {rewind_step} and of step 0, not of step "
            f"{settings.rewind_step}"
        )
    return content


def check_text(parent: Path, data: Tokens) -> None:
    """Raise `BadInput` where the text is not the one that ``parent`` was trained and judged on."""
    with (
        contextlib.suppress(OSError, ValueError, KeyError, TypeError),
        open(parent / "metrics.jsonl", encoding="utf-8") as file,
    ):
        theirs = files.parse_json(file.readline())["data"]["sha256"]
        if theirs and theirs != data.manifest.get("sha256"):
            raise BadInput(
                f"--from-round-1 {parent}: it was trained on other tokens than {data.name} has now (the text, its "
                "tokenizer or its split is another); train it again"
            )


def _other(parent: Path, stored: dict[str, Any], settings: TrainSettings) -> tuple[str, Any] | None:
    """The first setting, and its value there, in which the first training of ``parent`` differs; None: it does not."""
    other = other_first_training(settings, {**vars(TrainSettings()), **stored})  # before it came, one had its default
    if other or (before := resolved.stored(parent)) is None:
        return other
    return resolved.differs(settings, before)
