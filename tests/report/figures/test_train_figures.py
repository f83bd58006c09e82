"""The figures of a training: `swlottery.report.figures`: `train`, `rounds`, `magnitude`; and `run_files`."""

from __future__ import annotations

import itertools
import json
import math
import warnings
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas.testing import assert_frame_equal
from test_find_figures import drawn, overlap, pixels, written

from made_run import MATRIX, TOTAL, write
from swlottery.report.figures.magnitude import magnitude
from swlottery.report.figures.rounds import round_boxes
from swlottery.report.figures.style import look
from swlottery.report.figures.train import draw_round, draw_run, perplexities
from swlottery.report.run_files import Run, read_events, read_rows, read_run

CASES: dict[str, dict[str, Any]] = {
    "two weights": {"weights": 2},
    "none": {"weights": 0},
    "one, rewound to step 60": {"weights": 1, "rewind": 60},
    "six": {"weights": 6, "rate": 0.1, "every": 100},
    "far out": {"weights": 2, "size": 28.0},
    "many rounds": {"weights": 4, "rounds": 15, "every": 150},
    "cut in round 2": {"weights": 3, "cut": 45},
    "cut in round 1": {"weights": 1, "cut": 6},
    "just begun": {"weights": 1, "cut": 1},
    "by layer": {"weights": 2, "changed": {"criterion": "layer-magnitude"}},
    "at random": {"weights": 1, "changed": {"criterion": "random"}},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    for name, shape in CASES.items():
        write(folder / name, **shape)
    return {name: folder / name for name in CASES}


@pytest.fixture(autouse=True)
def _look():
    with look():
        yield


def labelled(axes: Axes, label: str) -> list[tuple[list[float], list[float]]]:
    return [
        (list(line.get_xdata()), list(line.get_ydata()))
        for line in axes.lines
        if str(line.get_label()).startswith(label)
    ]


def panels(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_title(loc="left")]


@pytest.mark.parametrize("case", ["two weights", "far out", "many rounds", "just begun"])
def test_every_figure_is_a_small_png_file_and_nothing_else_is_written(
    made: dict[str, Path], tmp_path: Path, case: str
) -> None:
    plots = tmp_path / "plots" / "run"
    before = {path: path.read_bytes() for path in made[case].iterdir()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        paths = [*draw_run(made[case], plots), draw_round(made[case], plots, 2)]
    assert [path.name for path in paths] == ["magnitude.png", "perplexity.png", "round_2.png"]
    assert sorted(plots.iterdir()) == sorted(paths)
    for path in paths:
        width, height = pixels(path)
        assert width == 1200 and 200 < height < 2000
        assert path.stat().st_size < 150_000
    assert {path: path.read_bytes() for path in made[case].iterdir()} == before


@pytest.mark.parametrize("case", CASES)
def test_no_text_lies_on_another_or_leaves_the_figure(made: dict[str, Path], case: str) -> None:
    run = read_run(made[case])
    for drawing in (magnitude, perplexities, lambda run: round_boxes(run, 2), lambda run: round_boxes(run, 6)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with look():
                figure = drawing(run)
                texts = drawn(figure)
        assert len(texts) >= 4
        assert figure.bbox.width == 1200 and 200 < figure.bbox.height < 2000
        assert not [(one[0], other[0]) for one, other in itertools.combinations(texts, 2) if overlap(one, other)]
        paper = figure.bbox
        assert not [text for text, box in texts if min(box.x0, box.y0) < 0 or box.x1 > paper.x1 or box.y1 > paper.y1]


def test_drawing_again_gives_the_same_bytes_and_leaves_matplotlib_as_it_was(
    made: dict[str, Path], tmp_path: Path
) -> None:
    before = dict(matplotlib.rcParams)
    first = [path.read_bytes() for path in draw_run(made["two weights"], tmp_path)]
    with matplotlib.rc_context({"font.size": 30, "savefig.dpi": 10}):
        assert [path.read_bytes() for path in draw_run(made["two weights"], tmp_path)] == first
    assert dict(matplotlib.rcParams) == before


def test_a_figure_that_fails_leaves_the_old_one(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path, _) = draw_run(made["two weights"], tmp_path)
    old = path.read_bytes()
    monkeypatch.setattr("swlottery.report.figures.style.files.os.replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        draw_run(made["two weights"], tmp_path)
    assert path.read_bytes() == old and len(list(tmp_path.iterdir())) == 2


# ------------------------------------------------------------------------------------------------ magnitude.png


def test_magnitudes_are_those_of_the_table_one_round_behind_the_other(made: dict[str, Path]) -> None:
    folder = made["two weights"]
    rows = [row for row in read_rows(folder / "watch.csv") if row["kind"] == "super_weight" and row["in"] == "6"]
    axes = panels(magnitude(read_run(folder)))[0]
    lines = labelled(axes, "the tracked weight")
    assert len(lines) == 6
    for round, (x, y) in enumerate(lines, 1):
        assert x == [300 * (round - 1) + step for step in range(0, 301, 30)]
        assert y == [abs(float(row["value"])) for row in rows if int(row["round"]) == round]
    assert axes.get_yscale() == "log"
    assert {line.get_xdata()[0] for line in axes.lines if line.get_color() == "#999999"} == {300, 600, 900, 1200, 1500}


def test_a_round_that_starts_at_the_rewind_step_is_as_much_shorter(made: dict[str, Path]) -> None:
    x = read_run(made["one, rewound to step 60"]).evaluations.set_index(["round", "step"])["x"]
    assert list(x.groupby("round").min()) == [0, 300, 540, 780, 1020, 1260] and x.max() == 1500
    assert x[1, 60] == 60 and x[2, 60] == 300 and x[2, 300] == 540


def test_the_threshold_and_the_prune_are_marked(made: dict[str, Path]) -> None:
    run = read_run(made["two weights"])
    kept, pruned = panels(magnitude(run))
    (events,) = [[event for event in read_events(made["two weights"]) if event["event"] == "evaluation"]]
    lines = labelled(pruned, "threshold")
    assert [level for _, y in lines for level in y] == [event["threshold"] for event in events]
    assert kept.get_title(loc="left") == "super weight (0, 44, 6): kept by all 5 prunes; 19 of 19 controls remain"
    assert pruned.get_title(loc="left").startswith("super weight (1, 45, 72): pruned in round ")
    _, weight = run.tracked()[1]
    end = weight[~weight["alive"]].iloc[0]
    round, step, size = end["round"], end["step"], end["size"]
    assert labelled(pruned, "pruned here") == [([300 * (round - 1) + step], [size])]
    assert step == 300 and size > 0
    assert not labelled(kept, "pruned here")
    beyond = [x for x, _ in labelled(pruned, "the tracked weight")]
    assert max(map(max, beyond)) == 300 * round


def test_the_band_is_that_of_the_primary_controls_that_remain(made: dict[str, Path]) -> None:
    folder = made["two weights"]
    sizes = [
        abs(float(row["value"]))
        for row in read_rows(folder / "watch.csv")
        if (row["kind"], row["of"], row["round"], row["step"]) == ("control_rank", "1:45:72", "4", "150")
    ]
    assert len(sizes) == 19
    alive = sorted(size for size in sizes if size)
    assert 1 < len(alive) < 19
    axes = panels(magnitude(read_run(folder)))[1]
    bands = [band for band in axes.collections if str(band.get_label()).startswith("controls that remain")]
    (corners,) = [path.vertices for path in bands[3].get_paths()]
    found = sorted({float(y) for x, y in corners if x == 1050})
    assert found == pytest.approx([alive[0], alive[-1]])
    assert {str(band.get_label()) for band in axes.collections} == {
        "controls that remain",
        "their middle half",
    }


def test_six_weights_have_a_panel_each_and_are_named_by_their_kind(made: dict[str, Path]) -> None:
    titles = [axes.get_title(loc="left").split("\n")[0] for axes in panels(magnitude(read_run(made["six"])))]
    assert titles == [
        "super weight (0, 44, 6)",
        "super weight (1, 45, 72)",
        "leader (2, 46, 138)",
        "foreign weight (3, 47, 204)",
        "super weight (0, 48, 270)",
        "super weight (1, 49, 336)",
    ]


def test_rounds_are_named_with_what_they_train_under(made: dict[str, Path]) -> None:
    texts = written(magnitude(read_run(made["two weights"])))
    assert {"1\n100 %", "2\n80 %", "3\n64 %", "4\n51.2 %", "5\n41 %", "final\n32.8 %"} <= set(texts)


def test_without_a_tracked_weight_there_is_the_threshold_alone(made: dict[str, Path]) -> None:
    (axes,) = panels(magnitude(read_run(made["none"])))
    assert axes.get_title(loc="left") == "no weight is tracked: the threshold alone"
    assert len(labelled(axes, "threshold")) == 6


def test_a_run_that_goes_on_is_drawn_as_far_as_it_came(made: dict[str, Path]) -> None:
    run = read_run(made["cut in round 2"])
    axes = panels(magnitude(run))[0]
    assert axes.get_title(loc="left") == "super weight (0, 44, 6)\nkept by 1 of 5 so far; 19 of 19 controls remain"
    assert axes.get_xlim()[1] == run.evaluations["x"].max() and 300 < run.evaluations["x"].max() < 600
    begun = read_run(made["cut in round 1"])
    assert "not pruned yet" in panels(magnitude(begun))[0].get_title(loc="left")
    assert "No evaluation has been written yet." in written(magnitude(read_run(made["just begun"])))


def test_what_prune_1_took_is_not_compared_with_controls_chosen_after_it(made: dict[str, Path]) -> None:
    run = read_run(made["two weights"])
    _, weight = run.tracked()[1]
    run.watch.loc[weight.index, "alive"] = weight["x"] < 300
    title = panels(magnitude(run))[1].get_title(loc="left")
    assert title == "super weight (1, 45, 72): pruned in round 1"


def test_a_weight_found_at_the_end_of_round_1_is_said_to_be_watched_from_there(made: dict[str, Path]) -> None:
    run = read_run(made["two weights"])
    assert not any("were not tracked before" in text for text in written(magnitude(run)))
    _, weight = run.tracked()[0]
    run.watch = run.watch.drop(weight.index[1:10])
    assert any("were not tracked before" in text for text in written(magnitude(run)))


def test_by_layer_the_threshold_is_that_of_the_weights_matrix(made: dict[str, Path], tmp_path: Path) -> None:
    run = read_run(made["by layer"])
    shown = [level for _, y in labelled(panels(magnitude(run))[0], "threshold") for level in y]
    assert shown == pytest.approx(run.tracked()[0][1]["level"].dropna())
    run.evaluations["level"] = 9.0
    again = [level for _, y in labelled(panels(magnitude(run))[0], "threshold") for level in y]
    assert again == shown


def test_a_random_criterion_has_no_threshold(made: dict[str, Path]) -> None:
    run = read_run(made["at random"])
    assert not labelled(panels(magnitude(run))[0], "threshold")
    (axes,) = panels(round_boxes(run, 2))
    assert not [line for line in axes.lines if line.get_linestyle() == "--"]


# ------------------------------------------------------------------------------------------------ perplexity.png


def test_perplexities_are_those_of_the_table_dense_at_the_left(made: dict[str, Path]) -> None:
    rows = list(read_rows(made["two weights"] / "rounds.csv"))
    (axes,) = perplexities(read_run(made["two weights"])).axes
    (curve,) = [line for line in axes.lines if line.get_marker() == "o"]
    assert list(curve.get_xdata()) == pytest.approx([100, 80, 64, 51.2, 40.96, 32.768], rel=1e-4)
    assert list(curve.get_ydata()) == [float(row["val_perplexity"]) for row in rows]
    left, right = axes.get_xlim()
    assert left > 100 > 33 > right and axes.get_xscale() == "log"
    assert "dense at the left" in axes.get_xlabel()
    assert f"{float(rows[5]['val_perplexity']):.2f}\nmask 5" in written(axes.figure)
    (dense,) = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert set(dense.get_ydata()) == {float(rows[0]["val_perplexity"])}


def test_one_round_has_one_point_and_no_round_says_so(made: dict[str, Path]) -> None:
    (axes,) = perplexities(read_run(made["cut in round 2"])).axes
    assert [len(line.get_xdata()) for line in axes.lines if line.get_marker() == "o"] == [1]
    figure = perplexities(read_run(made["cut in round 1"]))
    assert not figure.axes and "No round has been trained to its end yet." in written(figure)


def test_perplexities_that_differ_much_stand_on_a_log_scale(made: dict[str, Path]) -> None:
    assert perplexities(read_run(made["two weights"])).axes[0].get_yscale() == "linear"
    run = read_run(made["two weights"])
    run.rounds[-1]["val_perplexity"] = "90000"
    (axes,) = perplexities(run).axes
    assert axes.get_yscale() == "log" and axes.get_ylabel().endswith("log scale")


# ------------------------------------------------------------------------------------------------ round_<r>.png


def boxes_of(run: Run, round: int) -> list[dict[str, Any]]:
    return [box for box in run.boxes if box["round"] == round]


def test_boxes_are_those_of_the_events(made: dict[str, Path]) -> None:
    run = read_run(made["two weights"])
    figure = round_boxes(run, 1)
    assert "Round 1 of 5, trained under 100.00 % remaining: the tracked weights' matrices" in written(figure)
    first = panels(figure)[0]
    assert first.get_title(loc="left") == f"transformer.h.0.mlp.c_proj.weight: {MATRIX:,} weights remain"
    before, after = (box for box in boxes_of(run, 1) if box["layer"] == 0)
    assert [(bar.get_x(), bar.get_width()) for bar in first.patches] == [
        (box["q1"], box["q3"] - box["q1"]) for box in (before, after)
    ]
    ends = [list(line.get_xdata()) for line in first.lines]
    for box in (before, after):
        assert [box["median"]] * 2 in ends and [box["q1"], box["low"]] in ends and [box["q3"], box["high"]] in ends
        assert [box["minimum"], box["maximum"]] in ends
    assert [label.get_text() for label in first.get_yticklabels()] == ["before training", "after training"]


def test_the_weight_and_both_thresholds_are_drawn_on_both_boxes(made: dict[str, Path]) -> None:
    run = read_run(made["two weights"])
    axes = panels(round_boxes(run, 2))[0]
    drawn_marks = [line for line in axes.lines if line.get_marker() == "D" and len(line.get_xdata())]
    marks = {line.get_ydata()[0]: line.get_xdata()[0] for line in drawn_marks}
    values = {box["when"]: box["weights"][0]["value"] for box in boxes_of(run, 2) if box["layer"] == 0}
    assert marks == {1.0: values["before"], 0.0: values["after"]}
    dashed = sorted(line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--")
    levels = run.evaluations.set_index(["round", "step"])["level"]
    low, high = levels[2, 0], levels[2, 300]
    assert dashed == [-high, -low, low, high]
    label = f"super weight (0, 44, 6)\nbefore {values['before']:.4g}, after {values['after']:.4g}"
    assert label in written(axes.figure)


def test_a_weight_that_is_gone_is_hollow_and_said_to_be(made: dict[str, Path]) -> None:
    run = read_run(made["six"])
    axes = panels(round_boxes(run, 6))[3]
    assert "foreign weight (3, 47, 204)\npruned before this round" in written(axes.figure)
    faces = {line.get_markerfacecolor() for line in axes.lines if line.get_marker() == "D"}
    assert faces == {"white"}


def test_two_weights_of_one_matrix_share_its_panel_with_different_marks(made: dict[str, Path]) -> None:
    axes = panels(round_boxes(read_run(made["six"]), 1))[0]
    assert {line.get_marker() for line in axes.lines} >= {"D", "s"}
    assert len(panels(round_boxes(read_run(made["six"]), 1))) == 4


def test_a_weight_far_out_makes_the_axis_logarithmic_beyond_the_whiskers(made: dict[str, Path]) -> None:
    far, near = panels(round_boxes(read_run(made["far out"]), 1))
    assert far.get_xscale() == "symlog" and "log scale" in far.get_title(loc="left")
    assert near.get_xscale() == "linear" and "log scale" not in near.get_title(loc="left")
    low, high = far.get_xlim()
    assert low == -high and high > 5


def test_weights_found_at_the_end_of_round_1_join_the_box_of_their_matrix(made: dict[str, Path]) -> None:
    run = read_run(made["two weights"])
    box = next(box for box in run.boxes if (box["round"], box["when"], box["layer"]) == (1, "after", 0))
    late = {"kind": "leader", "layer": 0, "expert": None, "out": 1, "in": 2, "value": 0.1, "alive": True}
    run.boxes.append(box | {"weights": [late]})
    axes = panels(round_boxes(run, 1))[0]
    others = [one for one in boxes_of(run, 1) if one["layer"] == 0 and one is not run.boxes[-1]]
    early = {one["when"]: one["weights"][0]["value"] for one in others}
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        f"super weight (0, 44, 6)\nbefore {early['before']:.4g}, after {early['after']:.4g}",
        "leader (0, 1, 2)\nafter 0.1",
    ]


def test_an_empty_matrix_and_a_round_without_boxes_are_drawn(made: dict[str, Path]) -> None:
    run = read_run(made["two weights"])
    for box in run.boxes:
        box |= {"count": 0} | dict.fromkeys(("minimum", "low", "q1", "median", "q3", "high", "maximum"))
    assert panels(round_boxes(run, 3))[0].get_title(loc="left").endswith(": 0 weights remain")
    figure = round_boxes(read_run(made["none"]), 6)
    assert "No weight is tracked in this round." in written(figure)
    assert any(text.startswith("Final ticket, trained under 32.77 % remaining") for text in written(figure))


# ------------------------------------------------------------------------------------------------ the files


def test_half_written_last_lines_are_left_out(made: dict[str, Path], tmp_path: Path) -> None:
    events = write(tmp_path / "run", weights=1)
    complete = read_run(tmp_path / "run")
    assert len(complete.watch) > 100
    for name, rest in (("metrics.jsonl", '{"event": "eval'), ("watch.csv", "6,300,super_w"), ("rounds.csv", "6,52")):
        with open(tmp_path / "run" / name, "a") as file:
            file.write(rest)
    again = read_run(tmp_path / "run")
    for name, content in vars(complete).items():
        if name in ("evaluations", "watch"):
            assert_frame_equal(getattr(again, name), content)
        else:
            assert getattr(again, name) == content
    assert len(list(read_events(tmp_path / "run"))) == len(events)
    assert [round(100 * left, 2) for left in complete.remaining.values()] == [100, 80, 64, 51.2, 40.96, 32.77]
    assert len(complete.tracked()) == 1 and complete.controls((0, 44, 6))["place"].nunique() == 19


def test_missing_files_make_an_empty_run(tmp_path: Path) -> None:
    run = read_run(tmp_path)
    assert (run.settings, run.start, run.rounds, run.tracked()) == ({}, {}, [], [])
    assert run.evaluations.empty
    assert run.title == tmp_path.name and run.prunes == 0
    (tmp_path / "settings.json").write_text("[1")
    assert [path.name for path in draw_run(tmp_path, tmp_path / "plots")] == ["magnitude.png", "perplexity.png"]
    assert draw_round(tmp_path, tmp_path / "plots", 1).stat().st_size > 1000


def test_a_table_without_thresholds_is_read(made: dict[str, Path], tmp_path: Path) -> None:
    write(tmp_path, weights=1)
    rows = (tmp_path / "watch.csv").read_text().splitlines()
    column = rows[0].split(",").index("over_threshold")
    bare = [",".join("" if i == column else cell for i, cell in enumerate(row.split(","))) for row in rows[1:]]
    (tmp_path / "watch.csv").write_text("\n".join([rows[0], *bare, ""]))
    assert read_run(tmp_path).watch["level"].isna().all()


def test_names_are_drawn_as_they_are(tmp_path: Path) -> None:
    events = write(tmp_path, weights=1)
    events[0]["model"] = "costs $5 and $x^2$\n" + "long/" * 40
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    with look():
        title = perplexities(read_run(tmp_path)).texts[1].get_text()
    assert title.startswith("costs $5 and $x^2$ long/") and len(title) <= 75


def test_the_made_run_follows_the_floor_rule(made: dict[str, Path]) -> None:
    left = TOTAL
    for row in list(read_rows(made["two weights"] / "rounds.csv"))[1:]:
        left -= math.floor(left * 2 / 10)
        assert int(row["remaining"]) == left
