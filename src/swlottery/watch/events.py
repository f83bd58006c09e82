"""What is seen of a run: every event of its history, and every row of its tables. Nothing here changes a weight."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from swlottery.lottery import masks as masking
from swlottery.lottery import prune as pruning
from swlottery.lottery.entries import Place, read, read_alive
from swlottery.lottery.masks import Masks
from swlottery.lottery.state import Event, Run
from swlottery.lottery.training import NotFinite
from swlottery.models.coordinates import Coordinate
from swlottery.watch import controls as control
from swlottery.watch import rows as watch
from swlottery.watch.rows import Followed
from swlottery.watch.tracked import compare, coordinate_of, look


def start(run: Run) -> Event:
    """The first event: what is trained on what, and how many weights will remain."""
    settings, network, data = run.settings, run.network, run.data
    remaining = [masking.remaining(run.masks)]
    for count in run.plan[0]:
        remaining.append(remaining[-1] - count)
    return run.record(
        "start", model=network.name, note=network.note, lineage=network.lineage,
        parameters=sum(p.numel() for p in run.parameters.values()), scope=settings.scope,
        total=masking.total(run.masks), matrices=len(run.masks), context=network.context,
        device=str(run.training.device), gpu=run.environment.get("gpu"), dtype=run.training.dtype,
        why=run.environment.get("why"), data_tokens=run.environment.get("data_tokens"), threads=run.environment["threads"], versions=run.environment["versions"],
        tokens_per_step=_tokens(run), steps=settings.steps, prunes=run.prunes, counts=remaining,
        rates=[str(rate) for rate in settings.rates()] if not settings.one_shot else [str(1 - remaining[1] / remaining[0])],
        data={"name": data.name, "train_tokens": len(data.train), "validation_tokens": len(data.validation),
              "sha256": data.manifest.get("sha256")},
        downs=list(run.names.values()), in_out=network.roles.row.in_out,
        from_round_1=settings.from_round_1, followed=[_entry(one) for one in run.main],
    )  # fmt: skip


def evaluation(run: Run, round_: int, step: int) -> Iterator[Event]:
    """Held-out loss, the threshold that a prune now would give, and the watch."""
    new = run.pruner.prune(run.masks, run.count(round_))
    yield _losses(run, round_, step, new)
    watched(run, round_, step, new, alive=run.masks)


def trained(run: Run, round_: int, new: Masks) -> Iterator[Event]:
    """What is reported of every trained network, whether it is pruned next or final."""
    losses = _losses(run, round_, run.settings.steps, new)
    yield losses
    run.moments = run.moments or run.training.second_moments(list(run.downs))
    first = round_ == 1
    row = {
        "round": round_ - 1,
        **pruning.row(run.masks, None if first else run.state.pruned, None if first else run.state.threshold),
        **{name: losses[name] for name in ("train_loss", "val_loss", "val_perplexity")},
        "seconds": run.tick() - run.state.round_began,
    }
    run.tables.round(row)
    yield run.record("round", **row)
    yield from boxes(run, round_, "after")
    run.leave_if_asked()
    if run.settings.super_weights != "none":
        kind, found = look(run.network)
        own = [one.coordinate for one in run.main if one.kind in ("super_weight", "leader")]
        yield run.record("found", round=round_, **compare(own, kind, found))


def watched(run: Run, round_: int, step: int, new: Masks, alive: Masks) -> None:
    """The rows of watch.csv; ``alive``: the masks to read survival from, at a round's last step the new ones."""
    if not run.state.followed:
        return
    thresholds: dict[Place, float] | None = None
    if run.settings.criterion != "random":
        _, by_name = run.pruner.thresholds(run.masks, new)
        thresholds = {place: by_name[run.names[place[0]]] for place in run.matrices(run.downs)}
    stepped = bool(run.gradients)
    if stepped and not run.moments:
        run.moments = run.training.second_moments(list(run.downs))
    now = watch.Moment(
        round=round_,
        step=step,
        weights=run.weights,
        initial=run.initial,
        masks=run.matrices(run.masks),
        thresholds=thresholds,
        gradients=run.matrices(run.gradients) if stepped else None,
        moments=run.matrices(run.moments) if stepped else None,
        since=run.matrices(run.since) if stepped else None,
        everything=[(parameter.detach(), run.masks[name]) for name, parameter in run.scope.items()],
    )
    run.tables.watch(watch.rows(run.state.followed, now, run.matrices(alive)))


def boxes(run: Run, round_: int, when: str) -> Iterator[Event]:
    """The boxplot of every matrix that holds a followed weight, ``before`` or ``after`` a round's training."""
    weights, masks = run.weights, run.matrices(run.masks)
    for place, here in _by_place(run.main).items():
        yield _box(run, round_, when, place, weights[place], masks[place], here)


def discover(run: Run) -> Iterator[Event]:
    """The super weights, or else the leader, of the network that the first round trained.

    What is seen of a weight before its discovery is its place at step 0, from θ_0.
    """
    if run.settings.super_weights == "discover":
        kind, weights = look(run.network)
        found = [Followed(kind, coordinate_of(weight)) for weight in weights]
        run.state.followed = found + run.state.followed
        arms(run, at_start=False)
        theta_0 = run.theta(0)
        initial, masks = run.matrices(theta_0), run.matrices(run.masks)
        everything = [(theta_0[name], mask) for name, mask in run.masks.items()]
        now = watch.Moment(1, 0, initial, initial, masks, None, None, None, None, everything)
        run.tables.watch(watch.rows(found, now, masks))
        for place, here in _by_place(found).items():
            yield _box(run, 1, "before", place, initial[place], masks[place], here)
            yield _box(run, 1, "after", place, run.weights[place], masks[place], here)


def choose_controls(run: Run, new: Masks) -> Iterator[Event]:
    """All that are followed, and of each the ordinary weights to compare with, alive after the first prune (``new``)."""
    import torch

    weights_now = run.weights
    trained_sizes = {place: matrix.abs() for place, matrix in weights_now.items()}
    initial = {place: matrix.abs() for place, matrix in run.initial.items()}
    main, alive = run.main, run.matrices(new)
    taken = {one.coordinate for one in main}
    run.state.controls = [
        control.choose(one.coordinate, kind, trained_sizes, initial, alive, taken)
        for one in main
        for kind in control.KINDS
    ]
    run.state.followed = main + watch.as_followed(run.state.controls)
    chosen = [
        {"of": list(one.of[:3]), "kind": one.kind, "count": len(one.coordinates), "gap": one.gap}
        for one in run.state.controls
    ]
    coordinates = [one.coordinate for one in main]
    sizes = [trained_sizes[c.layer, c.expert] for c in coordinates]
    larger = [(size > size[c.out, c.in_]).sum() for size, c in zip(sizes, coordinates, strict=True)]
    ranks = torch.stack(larger).tolist() if larger else []
    weights = [
        {**_entry(one), "value": value, "rank": 1 + rank, "matrix_size": size.numel()}
        for one, value, rank, size in zip(main, read(weights_now, coordinates), ranks, sizes, strict=True)
    ]
    yield run.record("followed", round=1, weights=weights, controls=chosen)


def pruned(run: Run, round_: int, new: Masks) -> Event:
    """What the prune of a round did; the fate of each followed weight that went is settled here."""
    state = run.state
    state.threshold, levels = run.pruner.thresholds(run.masks, new)
    if run.settings.criterion == "random":
        levels = dict.fromkeys(levels, 0.0)  # no weight stands above or below anything
    state.pruned = masking.remaining(run.masks) - masking.remaining(new)
    after = run.matrices(new)
    before_of, after_of = _alive(run, run.matrices(run.masks)), _alive(run, after)
    numbers, tensors = pruning.row(new, state.pruned, state.threshold), pruning.keep_rates(run.masks, new)
    groups = [
        {"of": list(one.of[:3]), "kind": one.kind, "count": len(one.coordinates),
         "before": sum(before_of[c] for c in one.coordinates), "kept": sum(after_of[c] for c in one.coordinates)}
        for one in state.controls
    ]  # fmt: skip
    weights, kept_of = [], _keep_rates(run, after)
    for one, value in zip(run.main, read(run.weights, [one.coordinate for one in run.main]), strict=True):
        c = one.coordinate
        was, now = before_of[c], after_of[c]
        level = levels[run.names[c.layer]]
        over = abs(value) / level if level else None
        weights.append({**_entry(one), "value": value, "over_threshold": over, "alive_before": was, "alive": now})
        if was and not now:
            state.fates.append({
                **_entry(one), "pruned_in": round_,
                "sparsity": numbers["sparsity"], "remaining_fraction": numbers["remaining_fraction"],
                "matrix_keep_rate": kept_of[c.layer, c.expert],
                "control_keep_rates": [{key: group[key] for key in ("kind", "kept", "count")}
                                       for group in groups if group["of"] == list(c[:3])],
            })  # fmt: skip
    return run.record("prune", round=round_, **numbers, matrices=tensors, weights=weights, controls=groups)


def fates(run: Run) -> list[Event]:
    """What became of every followed weight: in which prune it went, or that it was kept through all, and against which
    chance level: the part of its matrix, and of its controls, that was kept then, or through all."""
    gone = {_key(fate) for fate in run.state.fates}
    alive, numbers = run.matrices(run.masks), pruning.row(run.masks, None, None)
    alive_of, kept_of = _alive(run, alive), _keep_rates(run, alive)
    rest = []
    for one in run.main:
        entry = _entry(one)
        if _key(entry) in gone:
            continue
        survived = alive_of[one.coordinate]
        rest.append({
            **entry, "pruned_in": None if survived else 0,  # 0: force-pruned before the first step
            "sparsity": numbers["sparsity"], "remaining_fraction": numbers["remaining_fraction"],
            "matrix_keep_rate": kept_of[one.coordinate.layer, one.coordinate.expert],
            "control_keep_rates": [
                {"kind": of.kind, "kept": sum(alive_of[c] for c in of.coordinates), "count": len(of.coordinates)}
                for of in run.state.controls if of.of == one.coordinate
            ],
        })  # fmt: skip
    return run.state.fates + rest


def _alive(run: Run, masks: Mapping[Place, Any]) -> dict[Coordinate, bool]:
    """Of every followed weight and of every control whether it remains under these masks."""
    controls = [c for one in run.state.controls for c in one.coordinates]
    coordinates = list(dict.fromkeys([one.coordinate for one in run.main] + controls))
    return dict(zip(coordinates, read_alive(masks, coordinates, elsewhere=False), strict=True))


def _keep_rates(run: Run, masks: Mapping[Place, Any]) -> dict[Place, float]:
    """Of every matrix that holds a followed weight what part of it these masks leave."""
    here = {place: masks[place] for place in _by_place(run.main)}
    return {place: count / here[place].numel() for place, count in masking.counts(here).items()}


def arms(run: Run, at_start: bool) -> Masks:
    """--protect and --force-prune, for the weights of the record or of the finder: the masks to go on with.

    At the start force-pruned weights are masked in m_0; later they go with the next prune, and count there.
    """
    only_followed = {Coordinate(*one) for one in run.settings.coordinates()}
    chosen = (one.coordinate for one in run.main if one.kind != "foreign" or one.coordinate not in only_followed)
    own = list(dict.fromkeys(chosen))
    if run.settings.protect == "sw":
        run.pruner.protected = run.state.protected = own
    if run.settings.force_prune == "none" or not own:
        return run.masks
    forced = own if run.settings.force_prune == "sw" else _instead_of(run, own)
    if at_start:
        return run.pruner.without(run.masks, forced)
    run.pruner.forced = run.state.forced = forced
    return run.masks


def _instead_of(run: Run, own: list[Coordinate]) -> list[Coordinate]:
    """For each weight the ordinary one of its matrix that is nearest in rank of magnitude now."""
    sizes = {place: matrix.abs() for place, matrix in run.weights.items()}
    taken, found = set(own), list[Coordinate]()
    for c in own:
        nearest = control.choose(c, "control_rank", sizes, sizes, {}, taken).coordinates[0]
        taken.add(nearest)
        found.append(nearest)
    return found


def _losses(run: Run, round_: int, step: int, new: Masks) -> Event:
    run.ranks.where = f"the evaluation after step {step} of round {round_}"
    loss, losses = run.training.evaluate(run.windows, run.asked), run.state.losses
    if not math.isfinite(loss):
        raise NotFinite(
            f"the held-out loss is not finite after step {step} of round {round_}: lower --lr, or clip harder; the last "
            "good checkpoint is kept"
        )
    threshold, _ = run.pruner.thresholds(run.masks, new)
    rounds_left = run.prunes + 1 - round_
    steps_left = run.settings.steps - step + rounds_left * (run.settings.steps - run.settings.rewind_step)
    return run.record(
        "evaluation", round=round_, step=step, steps=run.settings.steps,
        train_loss=math.fsum(losses) / len(losses) if losses else None,
        val_loss=loss, val_perplexity=math.exp(min(loss, 700.0)),
        gradient_norm=run.state.norm if losses else None, threshold=threshold,
        tokens_per_second=_tokens(run) / run.pace if run.pace else None,
        seconds_left=steps_left * run.pace if run.pace else None,
    )  # fmt: skip


def _tokens(run: Run) -> int:
    return run.settings.micro_batch * run.settings.grad_accum * run.network.context


def _box(run: Run, round_: int, when: str, place: Place, matrix: Any, mask: Any, here: list[Followed]) -> Event:
    coordinates = [one.coordinate for one in here]
    values, alive = read({place: matrix}, coordinates), read({place: mask}, coordinates)
    weights = [
        {**_entry(one), "value": value, "alive": remains}
        for one, value, remains in zip(here, values, alive, strict=True)
    ]
    return run.record("box", round=round_, when=when, layer=place[0], expert=place[1], path=run.names[place[0]],
                      **watch.box(matrix, mask), weights=weights)  # fmt: skip


def _by_place(followed: list[Followed]) -> dict[Place, list[Followed]]:
    found: dict[Place, list[Followed]] = {}
    for one in followed:
        found.setdefault((one.coordinate.layer, one.coordinate.expert), []).append(one)
    return found


def _entry(one: Followed) -> dict[str, Any]:
    c = one.coordinate
    return {"kind": one.kind, "layer": c.layer, "expert": c.expert, "out": c.out, "in": c.in_}


def _key(entry: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(entry[name] for name in ("kind", "layer", "expert", "out", "in"))
