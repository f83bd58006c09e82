"""What a stranger sees on the page's figures: numbers on axes, circles that can be counted, words that say the way."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.text import Annotation

from made_facts import OWN, Rows, kept, masks, run, study, two_rates, weights
from swlottery.report.page import charts, critical, found, growth, matrices, pictures, plan, rate, survival
from swlottery.report.page import gradient as gradient_of
from swlottery.report.page.answer import Answer, Picture


def shown(picture: Picture | None) -> list[Axes]:
    """The panels that are no empty cell."""
    assert picture is not None
    return [axes for axes in picture.figure.axes if axes.axison]


def legend(picture: Picture | None) -> set[str]:
    assert picture is not None
    return {text.get_text() for one in picture.figure.legends for text in one.get_texts()}


def picture(section: Answer | None, name: str) -> Picture:
    assert section is not None
    return next(one for one in section.pictures if one.name == name)


@pytest.mark.parametrize(("number", "numbered"), [(1, [0]), (2, [0, 1]), (3, [1, 2]), (4, [2, 3]), (5, [3, 4])])
def test_below_the_last_panel_of_each_column_its_axis_has_numbers(number: int, numbered: list[int]) -> None:
    figure = charts.panels(
        {str(n): n for n in range(number)}, lambda axes, n: axes.plot([0, 1], [0, n]) and None, "", ""
    )
    grid = [axes for axes in figure.axes if axes.axison]
    ticks = [axes.xaxis.get_major_ticks()[0].label1.get_visible() for axes in grid]
    assert [n for n, visible in enumerate(ticks) if visible] == numbered


def test_names_are_broken_where_it_does_not_hurt() -> None:
    assert (
        charts.wrapped("20 % × 5 (T 1200), 10 % × 5 (T 1200): 80.0 %")
        == "20 % × 5 (T 1200), 10 % × 5\n(T 1200): 80.0 %"
    )
    assert (
        charts.wrapped("10 % × 5\nplan-llama/seed1-A2, (0, 41, 60)", 30)
        == "10 % × 5\nplan-llama/seed1-A2,\n(0, 41, 60)"
    )


@pytest.mark.parametrize("values", [[0.0] * 40, [1.0] * 8, [0.0] * 3 + [0.2] * 2 + [0.2001] * 6, [0.1, 0.5, 0.5, 1.0]])
def test_circles_of_equal_values_are_beside_each_other(values: list[float]) -> None:
    rows = [{"arm": arm, "value": value} for arm in "ab" for value in [*values, 1.0]]
    drawn = charts.strip("x", rows, "value", "label", "caption", reference=0)
    (axes,) = shown(drawn)
    assert drawn is not None
    drawn.figure.set_layout_engine("constrained")
    drawn.figure.draw_without_rendering()
    circles = [line for line in axes.lines if line.get_marker() == "o"]
    places = [point for line in circles for point in axes.transData.transform(line.get_xydata())]
    assert len(places) == len(rows)
    apart = min(float(abs(one - other).max()) for one, other in combinations(places, 2)) * 72 / drawn.figure.dpi
    assert apart > (4.4 if len(values) < 12 else 0.5), "points; a circle has 4.5"


def tracked(rows: Rows, name: str, network: int, kind: str, sizes: list[float], falls: int = 0) -> None:
    """A run of three prunes, with |w| over the threshold at the end of each round."""
    run(rows, name, network, rounds=3)
    masks(rows, name, 0.2, 3)
    for round_, size in enumerate(sizes, 1):
        own = {"over_threshold": 0.0 if falls and round_ > falls else size}
        weights(rows, name, round_, own, [{}], kind=kind)
        if round_ <= 3:
            kept(rows, name, round_, 0.8**round_, not falls or round_ < falls, kind=kind)


def test_a_prune_that_was_not_made_is_drawn_apart_and_what_is_pruned_is_marked() -> None:
    rows: Rows = {}
    tracked(rows, "kept", 1, "leader", [9.0, 8.0, 7.0, 0.5])
    tracked(rows, "falls", 2, "super_weight", [9.0, 0.6, 0.5, 0.5], falls=2)
    drawn = pictures.magnitude(study(rows))
    (axes,) = shown(drawn)
    lines = {str(line.get_label()): line for line in axes.lines}
    assert list(lines["leaders, one line a run"].get_ydata()) == [9.0, 8.0, 7.0], "each of a prune that was made"
    assert list(lines["super weights, one line a run"].get_ydata()) == [9.0, 0.6]
    hollow, cross = lines["one more prune, not made"], lines["pruned"]
    assert hollow.get_ydata()[-1] == 0.5 and hollow.get_markerfacecolor() == "none"
    assert (cross.get_marker(), list(cross.get_ydata()), list(cross.get_xdata())) == ("x", [0.6], [80.0])
    assert drawn is not None and drawn.alternative.endswith("0.55, 1 pruned.") and "Hollow" in drawn.caption
    assert len({lines[f"{kind}s, one line a run"].get_color() for kind in ("leader", "super weight")}) == 2
    rows = {}
    tracked(rows, "kept", 1, "leader", [9.0, 8.0, 7.0, 0.5])
    assert not legend(pictures.magnitude(study(rows))) & {"pruned", "super weights, one line a run"}


def test_what_a_run_that_stopped_has_kept_is_not_called_pruned() -> None:
    rows: Rows = {}
    tracked(rows, "stopped", 1, "leader", [9.0, 8.0])
    drawn = pictures.magnitude(study(rows))
    assert not legend(drawn) & {"pruned", "one more prune, not made"}


def test_sizes_of_survivors_have_a_log_axis_and_say_how_many_they_are() -> None:
    rows: Rows = {}
    for network in range(3):
        tracked(rows, f"s{network}", network, "leader", [])
        for round_ in range(1, 5):
            value = 0.0 if network == 0 and round_ > 2 else 0.01 ** (round_ - 1)
            weights(rows, f"s{network}", round_, {"value": value}, [{}])
    drawn = picture(growth.answer(study(rows)), "sizes")
    (axes,) = shown(drawn)
    assert axes.get_yscale() == "log" and legend(drawn) == {"20 % × 3, n = 3"}
    numbers = {text.get_text(): text.xy for text in axes.texts if isinstance(text, Annotation)}
    assert numbers == {"2": (pytest.approx(64.0), pytest.approx(1e-4))}, "where one has lost its weight"
    written = [text.get_text() for text in axes.get_yticklabels(minor=True)]
    assert not any(written), "six powers of ten have no room for more numbers"


def test_each_layer_has_a_line_and_the_outermost_have_names() -> None:
    rows: Rows = {}
    run(rows, "a", 1, rounds=2)
    masks(rows, "a", 0.2, 2)
    for prune in (1, 2):
        for layer, share in enumerate((0.2, 0.7, 0.9)):
            matrix = {"matrix": f"model.layers.{layer}.mlp.down_proj.weight", "drawn": 0, "kept": 0, "bits": ""}
            left = {"size": 1000, "matrix_kept": round(1000 * share**prune)}
            rows.setdefault("fixed", []).append({"run": "a", "round": prune, **matrix, **left})
    drawn = picture(matrices.answer(study(rows)), "c_proj")
    (axes,) = shown(drawn)
    ends = sorted(line.get_ydata()[-1] for line in axes.lines)
    assert ends == pytest.approx([4.0, (4 + 49 + 81) / 3, 49.0, 64.0, 81.0]), "three layers, all, and all weights"
    assert {text.get_text() for text in axes.texts} == {"layer 0", "layer 2"}
    assert drawn.alternative.endswith("20 % × 2: 44.7, by layer 4 to 81.") and "each layer's" in drawn.caption


def test_a_super_weight_is_named_with_its_network() -> None:
    rows: Rows = {}
    for name, network in (("first", 1), ("once more", 1), ("other", 2)):
        run(rows, name, network, rounds=1, data_seed=len(name))
        masks(rows, name, 0.2, 1)
        weights(rows, name, 1, {"percentile_remaining": 60.0}, [], kind="super_weight")
    (axes,) = shown(picture(critical.answer(study(rows)), "critical"))
    assert [text.get_text() for text in axes.get_yticklabels()] == [f"first: {OWN}", f"other: {OWN}"]
    assert sum(len(line.get_xdata()) for line in axes.lines if line.get_marker() == "o") == 3
    assert "dashed: five rounds at 20 %" in axes.get_xlabel()


def test_where_weights_fall_is_on_the_axis_of_sparsity() -> None:
    section = survival.falls(study(two_rates(0.0, 3)))
    (axes,) = shown(picture(section, "plan_survival"))
    values = [x for line in axes.lines if line.get_marker() == "o" for x in line.get_xdata()]
    assert all(80 < value < 100 for value in values) and axes.get_xlabel().startswith("sparsity")


def two_lengths(**changed: Any) -> Rows:
    rows: Rows = {}
    for name, own in (("short", {}), ("long", changed)):
        for network in range(2):
            run(rows, f"{name}{network}", network, rounds=1, **own)
            masks(rows, f"{name}{network}", 0.2, 1)
            weights(rows, f"{name}{network}", 1, {}, [])
            kept(rows, f"{name}{network}", 1, 0.8, True)
    return rows


@pytest.mark.parametrize(
    ("changed", "name", "way"),
    [
        ({"steps": 400}, "plan_budget", "natural log of |w|/threshold"),
        ({"steps": 400}, "plan_budget", "left of the dashed line: nearer to pruning in the first arm"),
        ({"steps": 400}, "plan_steps", "left of the dashed line: it costs less in the first arm"),
        (
            {"criterion": "layer-magnitude"},
            "plan_layers",
            "left of the dashed line: the loss is lower in the first arm",
        ),
    ],
)
def test_a_difference_says_which_side_is_which(changed: dict[str, Any], name: str, way: str) -> None:
    section = next(one for one in plan.answers(plan.compared(study(two_lengths(**changed)))) if one.name == name)
    drawn = picture(section, name)
    (axes,) = shown(drawn)
    assert way in " ".join(axes.get_xlabel().split()) and way in drawn.alternative


def test_ranks_say_in_words_what_is_ranked_and_where_the_ends_are() -> None:
    (axes,) = shown(picture(rate.answer(study(two_rates(1.0, 3))), "rates"))
    label = axes.get_xlabel()
    assert "how much nearer to pruning the first arm brings the weight" in label and "1: most of all" in label
    assert " d " not in f" {label} ".replace("\n", " ")


def test_the_margin_of_an_auc_is_a_band() -> None:
    rows = two_rates(0.0, 3)
    rows["predicted"] = [
        {"run": row["run"], "round": row["round"], "auc_initial": 0.51, "auc_trained": 0.9} for row in rows["rounds"]
    ]
    drawn = picture(found.prediction(study(rows)), "auc")
    (axes,) = shown(drawn)
    (band,) = axes.patches
    assert band.get_extents().transformed(axes.transData.inverted()).intervaly == pytest.approx([0.48, 0.52])
    low, high = axes.get_ylim()
    assert low <= 0.48 and high >= 0.52 and "½ ± 0.02" in drawn.caption


def test_each_kind_of_dot_has_its_name() -> None:
    rows: Rows = {}
    for network in range(2):
        run(rows, f"s{network}", network, rounds=1)
        masks(rows, f"s{network}", 0.2, 1)
        weights(rows, f"s{network}", 2, {}, [{}, {}])
    drawn = picture(gradient_of.answer(study(rows)), "percentiles")
    assert legend(drawn) == {"tracked weights", "in one network", "their controls", "in one network (mean)"}


def test_the_boxes_say_that_their_axes_differ() -> None:
    rows: Rows = {}
    run(rows, "a", 1, rounds=1)
    weights(rows, "a", 1, {}, [])
    numbers = {
        "count": 9,
        "minimum": -3,
        "low": -2,
        "q1": -1,
        "median": 0,
        "q3": 1,
        "high": 2,
        "maximum": 3,
        "value": 2.5,
    }
    one = {"run": "a", "round": 1, "when": "after", "weight": OWN, "alive": True, "threshold": 0.5, **numbers}
    rows["boxes"] = [one]
    drawn = pictures.boxes(study(rows))
    assert drawn is not None and "axes differ" in drawn.caption
    assert shown(drawn)[0].get_title(loc="left") == f"20 % × 1\na, {OWN}"
