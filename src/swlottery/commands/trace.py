"""``swlottery trace``: the finder on the checkpoints of one training; each weight found in any is followed through all.

First every checkpoint is searched, then every weight looked up in each. What a checkpoint gave is kept as JSON: a job
that was stopped goes on behind it. A checkpoint that has other weights by now is looked at anew.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swlottery.commands.outputs import check_folder, check_temporary
from swlottery.config import TraceSettings
from swlottery.errors import DONE, STOPPED, BadInput
from swlottery.runtime import files, sums
from swlottery.runtime import folder as folders
from swlottery.runtime.stop import Asked, Stopped, never, raise_if_asked

if TYPE_CHECKING:
    from swlottery.data.evaluation import Text
    from swlottery.models.loaded import Loaded
    from swlottery.report.logs.trace import TraceLog

LONGEST = 512
"""Tokens of a document on which weights are set to zero."""


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint of the training. label: how tables call it. step, tokens: None where its name does not say."""

    name: str
    revision: str | None
    label: str
    step: int
    tokens: int | None

    @property
    def file(self) -> str:
        """Where its results are kept."""
        from swlottery.models.names import shortened, slug

        digest = hashlib.sha256(f"{self.name}@{self.revision}".encode(errors="surrogateescape")).hexdigest()
        return f"{shortened(slug(self.label), 150)}-{digest[:8]}.json"


def trace(settings: TraceSettings, root: Path, asked: Asked = never) -> int:
    """Search the checkpoints, look every weight up in all, and write the tables and the figure. Returns the exit code.

    root: where ``traces/<model>`` is by default. asked: whether to stop; the same command then goes on from there.

    Raises:
        BadInput: checkpoints that cannot be loaded, or that are no networks of one shape.
    """
    given = settings.checkpoints()
    check_temporary()
    from swlottery.data.evaluation import read_text
    from swlottery.models.names import path_of, slug
    from swlottery.runtime import hardware

    for name, _ in given:
        path_of(name)
    title = slug(given[0][0] if settings.revisions else str(Path(given[0][0]).absolute().parent))
    out = Path(settings.out or root / "traces" / title)
    check_folder(out)
    text = read_text(settings.eval_text)
    hardware.make_current(hardware.pick_device(settings.device))
    checkpoints = placed(given, settings.tokens_per_step)
    check(checkpoints, text, settings.eval_tokens)
    from swlottery.report.logs.trace import TraceLog

    log = TraceLog(bars=False)
    with folders.held(out):
        log.header(settings, [one.label for one in checkpoints], text.name, out)
        try:
            rows = Tracing(settings, text, out, log, asked).run(checkpoints)
        except Stopped:
            log.stopped(out)
            return STOPPED
        from swlottery.find import trace as tracing
        from swlottery.report.figures.trace import draw

        table = out / "trace.csv"
        tracing.write(table, rows)
        log.footer(rows, table, draw(table, out, title, settings.kappa))
    return DONE


def placed(given: Sequence[tuple[str, str | None]], tokens_per_step: int = 0) -> list[Checkpoint]:
    """The checkpoints in the order of their steps. Where a name has none, or two the same: in the given order, from 0.

    Their tokens are those of their names, or else steps times ``tokens_per_step``.
    """
    from swlottery.find.trace import step_of, tokens_of

    last = [revision or Path(name).name for name, revision in given]
    labels = last if len(set(last)) == len(last) else [revision or name for name, revision in given]
    steps = [step_of(label) for label in last]
    known = [step for step in steps if step is not None]
    has_steps = len(set(known)) == len(given)
    found = []
    for nth, ((name, revision), label, step) in enumerate(zip(given, labels, steps, strict=True)):
        tokens = tokens_of(label)
        if tokens is None and step is not None and tokens_per_step:
            tokens = step * tokens_per_step
        found.append(Checkpoint(name, revision, label, step if has_steps and step is not None else nth, tokens))
    return sorted(found, key=lambda one: one.step)


def check(checkpoints: Sequence[Checkpoint], text: Text, tokens: int) -> None:
    """Raise `BadInput` where a checkpoint has down-projections of another shape than the first, or where ``tokens`` of
    the text cannot be had. Loads no weights."""
    from swlottery.data.evaluation import quick
    from swlottery.models import pretrained, tokenizers
    from swlottery.models.architectures import Roles
    from swlottery.models.loaded import context_of
    from swlottery.models.names import locate

    known: dict[str, tuple[str, int, list[tuple[int, int]]]] = {}
    for one in checkpoints:
        tokenizer, config = tokenizers.load(locate(one.name, one.revision)[0], one.revision, one.name)
        key = config.to_json_string()
        if not known:
            quick(text, tokenizer, tokens, min(LONGEST, context_of(config)))
        if key not in known:
            downs = Roles(pretrained.empty(one.name, config)).downs
            shapes = [down.shape(number) for down in downs for number in down.numbers()]
            known[key] = config.model_type, len(downs), shapes
        first, here = next(iter(known.values())), known[key]
        if here != first:
            raise BadInput(
                f"{one.label} is another network than {checkpoints[0].label} ({_described(*here)}; "
                f"{_described(*first)}): give checkpoints of one training"
            )


def _described(kind: str, layers: int, shapes: Sequence[tuple[int, int]]) -> str:
    matrices = f", {len(shapes)} matrices" if len(shapes) > layers else ""
    return f"{kind}, {layers} layers of {shapes[0]}{matrices}"


class Tracing:
    """The work on one folder of results."""

    def __init__(self, settings: TraceSettings, text: Text, out: Path, log: TraceLog, asked: Asked) -> None:
        self.settings, self.text, self.out, self.log, self.asked = settings, text, out, log, asked
        names = ("kappa", "max_weights", "dtype", "eval_tokens")
        self.how = {name: getattr(settings, name) for name in names} | {"eval_text": text.sha256}

    def run(self, checkpoints: Sequence[Checkpoint]) -> list[dict[str, Any]]:
        """The rows of trace.csv, checkpoint by checkpoint. Raises `Stopped` where that was asked for."""
        from swlottery.find.trace import followed
        from swlottery.models.coordinates import Coordinate

        seen = []
        for one in checkpoints:
            raise_if_asked(self.asked)
            seen.append(self._searched(one))
            self.log.searched(one.label, one.tokens, seen[-1])
        those = followed([(content["kind"], content["weights"]) for content in seen])
        self.log.following(those, any(content["kind"] == "super_weight" for content in seen))
        rows = []
        for one, content in zip(checkpoints, seen, strict=True):
            raise_if_asked(self.asked)
            self._look_up(one, content, [weight for weight in those if str(weight) not in content["looked_up"]])
            found = [Coordinate.of(w) for w in content["weights"] if content["kind"] == "super_weight"]
            where = {"checkpoint": one.label, "step": one.step, "tokens": one.tokens}
            rows += [where | w.entry() | {"found": w in found} | content["looked_up"][str(w)] for w in those]
        return rows

    def _searched(self, one: Checkpoint) -> dict[str, Any]:
        """What the checkpoint's file says; where that is of other weights or settings, or not there, the search."""
        from swlottery.find.trace import found_in
        from swlottery.models.architectures import Roles

        path = self.out / one.file
        known: dict[str, Any] = {}
        with contextlib.suppress(FileNotFoundError, ValueError):
            known = sums.read_sealed(path)
        with self._loaded(one) as loaded:
            how = self.how | {"weights_sha256": loaded.weights_sha256, "run_in": loaded.dtype}
            if known.get("how") == how:
                return known
            if known:
                changed = [name for name in how if known.get("how", {}).get(name) != how[name]]
                self.log.line(f"{one.label} was looked at with another {', '.join(changed)}: it is looked at anew")
            probe = _probe(loaded)
            kind, weights = found_in(
                loaded.model, Roles(loaded.model).downs, probe, self.settings.kappa, self.settings.max_weights
            )
        content = {"checkpoint": one.name, "revision": one.revision, "how": how, "kind": kind, "weights": weights}
        return self._keep(one, content | {"looked_up": {}})

    def _look_up(self, one: Checkpoint, content: dict[str, Any], missing: Sequence[Any]) -> None:
        """Look up what is not in the checkpoint's ``content`` yet, and keep it there."""
        if not missing:
            return
        from swlottery.data.evaluation import quick
        from swlottery.data.vocabulary import check_rows
        from swlottery.find.trace import effects, look_up
        from swlottery.models.architectures import Roles
        from swlottery.models.loaded import embedding_rows

        with self._loaded(one) as loaded:
            if loaded.weights_sha256 != content["how"]["weights_sha256"]:
                raise BadInput(f"the weights of {one.label} were changed just now: run the same again")
            roles = Roles(loaded.model)
            context = min(LONGEST, loaded.context)
            windows = quick(self.text, loaded.tokenizer, self.settings.eval_tokens, context).windows
            check_rows(int(windows.max()), embedding_rows(loaded.model), loaded.tokenizer, f"the text {self.text.name}")
            seen = look_up(loaded.model, roles.downs, _probe(loaded), missing)
            worth = effects(loaded.model, roles, windows, missing, lambda: raise_if_asked(self.asked))
        for weight, entry, effect in zip(missing, seen, worth, strict=True):
            content["looked_up"][str(weight)] = entry | effect
        self._keep(one, content)

    @contextlib.contextmanager
    def _loaded(self, one: Checkpoint) -> Iterator[Loaded]:
        """The checkpoint in evaluation mode. Afterwards nothing holds it, before the next is loaded."""
        from swlottery.models import load as models
        from swlottery.models.running import evaluating

        loaded = models.load(one.name, one.revision, self.settings.dtype, self.settings.device)
        with evaluating(loaded.model):
            yield loaded
        del loaded
        gc.collect()

    def _keep(self, one: Checkpoint, content: dict[str, Any]) -> dict[str, Any]:
        files.write_json(self.out / one.file, sums.sealed(content))
        return content


def _probe(loaded: Loaded) -> Any:
    from swlottery.find import probe as probes
    from swlottery.models.loaded import embedding_rows

    rows = embedding_rows(loaded.model)
    return probes.build(loaded.tokenizer, probes.DEFAULT_PROMPTS, loaded.context, device=loaded.device, rows=rows)
