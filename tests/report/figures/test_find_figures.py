"""The figures of a record: `swlottery.report.figures.find`."""

from __future__ import annotations

import copy
import itertools
import math
import struct
import warnings
from pathlib import Path
from typing import Any

import jsonschema
import matplotlib
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.text import Text

from swlottery.find.record import Record, schema
from swlottery.report.figures.dose import doses
from swlottery.report.figures.find import activations, contributions, draw
from swlottery.report.figures.forest import ablations, forest
from swlottery.report.figures.style import DPI, VERMILLION, look


@pytest.fixture(autouse=True)
def _look():
    with look():
        yield


VERDICTS = ("critical", "jointly critical", "weak", "inert", "undetermined")


def ablation(difference: float, width: float = 0.05) -> Record:
    return {
        "perplexity_ratio": math.exp(min(difference, 700)),
        "nll_difference": difference,
        "nll_difference_interval": [difference - width, difference + width],
    }


def weight(layer: int, out: int, in_: int, expert: int | None = None, spike: float = 24881.6) -> Record:
    token = {"prompt": "Apple Inc. is", "bos": True, "position": 0, "text": "Apple"}
    return {
        "layer": layer,
        "out": out,
        "spike": spike,
        "ratio": 503.2,
        "added": spike,
        "rms_ratio": 2954.0,
        "stream": spike,
        "token": token,
        "expert": expert,
        "module": f"model.layers.{layer}.mlp.down_proj",
        "in": in_,
        "value": 5.9,
        "rank": 1,
        "input": 3064.8,
        "share": 0.72,
    }


def synthetic(layers: int = 30, weights: int = 6, experts: bool = False, huge: bool = False) -> Record:
    """A valid record. experts: of a mixture; huge: the first ablations cost far over a millionfold perplexity."""
    found = []
    for i in range(weights):
        expert = i % 4 if experts else None
        difference = 30.0 - i if huge and i < 3 else (2.6, 0.3, 0.02, 0.0, -0.03)[i % 5]
        given = [
            {"in": 1229 + i + j, "expert": expert, "amount": 0.72 * 0.3**j, "share": 0.72 * 0.3**j} for j in range(8)
        ]
        found.append(
            weight((3 * i) % layers, 507 + i, 1229 + i, expert, spike=(-1) ** i * 24881.6 / (i + 1))
            | ablation(difference)
            | {"removal": i + 1, "bias_share": 0.02 * (i % 2), "contributions": given, "verdict": VERDICTS[i % 5]}
            | {"restored": ablation(0.01) if difference > 0 else None, "tokens_to_decide": None}
        )

    def peaks(factor: float) -> list[Record]:
        return [
            {
                "layer": i,
                "input": {"value": -3.0 - i - factor * (i == 11), "channel": i},
                "output": {"value": 20.0 + i + 8 * factor * (i == 11), "channel": i},
            }
            for i in range(layers)
        ]

    place = {"layer": 1, "expert": 0 if experts else None, "out": 3, "in": 4}
    members = list(range(weights))
    joint = [
        {"kind": "joint", "members": members, "critical": True} | ablation(9.0),
        {"kind": "joint", "members": members[:2], "critical": False} | ablation(0.5),
        {"kind": "left in", "members": members[1:], "critical": False} | ablation(0.4),
    ]
    sets = [
        *({"kind": "random set", "coordinates": [place] * weights} | ablation(0.001 * i, 0.002) for i in range(3)),
        {"kind": "largest others", "coordinates": [place] * weights} | ablation(0.004, 0.002),
    ]
    controls = [{"kind": "control", "coordinates": [place]} | ablation((i - 9) / 4000, 0.001) for i in range(20)]
    null = {"draws": 199, "p_value": 0.005, "firing_rate": 0.0, "firing_interval": [0.0, 0.02]}
    cancellers = [weight(max(layers - 2, 0), 507, 678, spike=-14267.3), weight(layers - 1, 507, 1165, spike=-5798.0)]
    record = {
        "schema": 1,
        "model": "smollm2",
        "note": "the Instruct model, quantised to Q4_1: full of tied weights",
        "revision": None,
        "weights_sha256": "0" * 64,
        "stored_dtype": "float32",
        "dtype": "float32",
        "device": "cpu",
        "versions": {},
        "prompts": ["Apple Inc. is a worldwide tech company."],
        "bos": ["with"],
        "probe_tokens": 240,
        "kappa": 40.0,
        "rho": 5.0,
        "seed": 0,
        "complete": True,
        "layers": {"before": peaks(3000), "after": peaks(0)},
        "nulls": [
            {"kind": kind, "observed": 503.2, "median": 12.0, "quantile_95": 20.0, "largest": 22.0} | null
            for kind in ("entries", "rows")
        ],
        "false_positive_rate": {"rate": 0.0, "interval": [0.0, 0.02], "draws": 199, "null": "entries"},
        "leader": weight(3, 5, 7, spike=12.3) | {"lacks": ["ratio 8.2 < κ = 40", "1.2 < ρ = 5 times the stream's RMS"]},
        "baseline_nll": 3.0,
        "baseline_perplexity": 20.09,
        "eval_text": "builtin",
        "eval_text_sha256": "0" * 64,
        "eval_tokens": 1024,
        "documents": 32,
        "super_weights": found,
        "cancellers": [spike | ablation(0.03) for spike in cancellers],
        "diffuse": [],
        "joint": joint if weights > 1 else [],
        "controls": controls * (weights > 0) + sets * (weights > 1),
        "near_misses": [],
    }
    jsonschema.validate(record, schema())
    return record


def with_doses(record: Record) -> Record:
    """The same with what schema 2 adds to each weight."""
    for nth, weight in enumerate(record["super_weights"]):
        weight["dose"] = [
            {"factor": factor, "level": 0.95, "documents": 8, **ablation((1 - factor) * 2 / (nth + 1))}
            for factor in (0.75, 0.5, 0.25, 0)
        ]
        weight["row"] = ablation(1.5)
    return record


def pixels(path: Path) -> tuple[int, int]:
    """Width and height of a PNG file, from its header."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def written(figure: Figure) -> list[str]:
    """All texts of a figure as they are drawn."""
    return [text.get_text() for text in figure.findobj(Text)]


Box = tuple[str, Any]


def drawn(figure: Figure) -> list[Box]:
    """Every text that is drawn, with its box in pixels (ticks beyond the axes exist, but are never drawn)."""
    texts: list[Text] = []
    draw_text = Text.draw

    def draw_and_note(text: Text, *args: Any, **kwargs: Any) -> None:
        texts.append(text)
        draw_text(text, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", draw_and_note)
        figure.set_dpi(DPI)
        figure.draw_without_rendering()
    return [(text.get_text(), text.get_window_extent()) for text in dict.fromkeys(texts) if text.get_text()]


def overlap(one: Box, other: Box) -> bool:
    here, there = one[1], other[1]
    wide, high = min(here.x1, there.x1) - max(here.x0, there.x0), min(here.y1, there.y1) - max(here.y0, there.y0)
    return bool(wide > 1 and high > 1)


CASES = {
    "as in SmolLM2": synthetic(),
    "none": synthetic(weights=0),
    "one": synthetic(layers=12, weights=1),
    "one layer": synthetic(layers=1, weights=2),
    "a mixture of experts": synthetic(layers=80, weights=12, experts=True),
    "many": synthetic(layers=80, weights=32, experts=True, huge=True),
}


@pytest.mark.parametrize("case", ["none", "many"])
def test_draw_writes_three_small_png_files_and_nothing_else(tmp_path: Path, case: str) -> None:
    folder = tmp_path / "plots" / "model"
    ordinary = tmp_path / "file"
    ordinary.touch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        paths = draw(CASES[case], folder)
    assert [path.name for path in paths] == ["activations.png", "contributions.png", "ablations.png"]
    assert sorted(folder.iterdir()) == sorted(paths)
    for path in paths:
        width, height = pixels(path)
        assert width == 1200 and 200 < height < 2000
        assert path.stat().st_size < 150_000
        assert path.stat().st_mode == ordinary.stat().st_mode


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("drawing", [activations, contributions, ablations])
def test_no_text_lies_on_another_or_leaves_the_figure(case: str, drawing: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with look():
            figure = drawing(CASES[case])
            texts = drawn(figure)
    assert len(texts) > 10
    assert not [(one[0], other[0]) for one, other in itertools.combinations(texts, 2) if overlap(one, other)]
    paper = figure.bbox
    outside = [text for text, box in texts if min(box.x0, box.y0) < 0 or box.x1 > paper.x1 or box.y1 > paper.y1]
    assert not outside


def test_drawing_again_replaces_the_files_and_leaves_the_record_alone(tmp_path: Path) -> None:
    record = synthetic(layers=4, weights=1)
    before = copy.deepcopy(record)
    first = [path.read_bytes() for path in draw(record, tmp_path)]
    assert [path.read_bytes() for path in draw(record, tmp_path)] == first
    assert record == before


def test_a_figure_that_fails_leaves_nothing_half_written(tmp_path: Path) -> None:
    record = synthetic(layers=4, weights=2)
    record["joint"][0]["members"] = [99]
    with pytest.raises(IndexError):
        draw(record, tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".png"]
    assert not (tmp_path / "ablations.png").exists()


def test_settings_of_matplotlib_are_left_as_they_were(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"font.size": 30, "savefig.dpi": 10, "savefig.bbox": "tight"}):
        paths = draw(synthetic(layers=4, weights=1), tmp_path)
        assert matplotlib.rcParams["font.size"] == 30
    assert dict(matplotlib.rcParams) == before
    assert pixels(paths[0])[0] == 1200


def test_activations_are_those_of_the_record() -> None:
    record = CASES["as in SmolLM2"]
    figure = activations(record)
    _, upper, lower = figure.axes
    for axes, side in ((upper, "input"), (lower, "output")):
        for when in ("before", "after"):
            (line,) = [line for line in axes.lines if line.get_label() == f"{when} removal"]
            assert list(line.get_xdata()) == list(range(30))
            assert list(line.get_ydata()) == [abs(layer[side]["value"]) for layer in record["layers"][when]]
        assert axes.get_yscale() == "log"
        assert "activation, as computed" in axes.get_ylabel()
    markers = {line.get_marker() for line in lower.lines if str(line.get_label()).endswith("removal")}
    assert len(markers) == 2
    (cancelling,) = [line for line in lower.lines if "cancels" in str(line.get_label())]
    assert list(cancelling.get_xdata()) == [28, 29] and list(cancelling.get_ydata()) == [14267.3, 5798.0]


def test_activations_name_each_super_weight_at_its_layer() -> None:
    flags = {
        text.get_text().strip(): text.get_position()[0] for text in activations(synthetic(weights=3)).axes[0].texts
    }
    assert flags == {"(0, 507, 1229)": 0, "(3, 508, 1230)": 3, "(6, 509, 1231)": 6}
    (together,) = activations(synthetic(layers=3, weights=3)).axes[0].texts
    assert together.get_text().split("\n") == [" (0, 507, 1229)", " (0, 508, 1230)", " (0, 509, 1231)"]
    assert any("(0, 507, 1229, expert 0)" in text for text in written(activations(synthetic(weights=3, experts=True))))


def test_without_super_weights_only_before_is_shown_and_the_leader_is_named() -> None:
    record = CASES["none"]
    figure = activations(record)
    labels = {line.get_label() for axes in figure.axes for line in axes.lines}
    assert "before removal" in labels and "after removal" not in labels
    assert any("nothing was removed" in text for text in written(figure))
    texts = written(contributions(record))
    assert "leader: layer 3, out 5\nspike 12.3 (ratio 503)" in texts
    assert any("The leader (3, 5, 7) is no super weight: ratio 8.2 < κ = 40" in text for text in texts)
    assert not any("taken out" in text for text in texts)
    assert any("No super weight" in text for text in written(ablations(record)))


def test_contributions_are_the_shares_of_the_record() -> None:
    record = synthetic(weights=2)
    first, second = contributions(record).axes
    assert first.get_title(loc="left") == "removal 1: layer 0, out 507\nspike 24,882 (ratio 503)"
    bars = dict(zip([label.get_text() for label in first.get_yticklabels()], first.patches, strict=True))
    shares = [given["share"] for given in record["super_weights"][0]["contributions"] if given["share"] >= 0.005]
    widths = {name: bar.get_width() for name, bar in bars.items()}
    assert widths.pop("the rest") == pytest.approx(100 * (1 - sum(shares)))
    assert widths == pytest.approx({f"in {1229 + j}": 100 * share for j, share in enumerate(shares)})
    taken = [name for name, bar in bars.items() if bar.get_facecolor() == to_rgba(VERMILLION)]
    assert taken == ["in 1229"] and " 72 %, taken out" in [text.get_text() for text in first.texts]
    bias = [label.get_text() for label in second.get_yticklabels()].index("the bias")
    assert second.patches[bias].get_width() == pytest.approx(2.0)


def test_contributions_say_how_many_removals_are_left_out() -> None:
    figure = contributions(CASES["many"])
    assert len([axes for axes in figure.axes if axes.get_title(loc="left")]) == 12
    assert any("20 more are in the record" in text for text in written(figure))
    assert "in 1229, expert 0" in written(figure)
    assert not any("in the record" in text for text in written(contributions(CASES["as in SmolLM2"])))


def test_an_opposing_share_larger_than_the_spike_is_drawn() -> None:
    record = synthetic(weights=1)
    record["super_weights"][0]["contributions"] = [{"in": 1229, "expert": None, "amount": 3.0, "share": 3.0}]
    (axes,) = contributions(record).axes
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([300.0, -200.0])
    low, high = axes.get_xlim()
    assert low < -200 and high > 300


def test_the_forest_has_every_ablation_but_those_with_a_member_left_in() -> None:
    labels = [row.label for row in forest(synthetic(weights=6))]
    assert labels == [
        "A super weight alone",
        "1: (0, 507, 1229), critical",
        "2: (3, 508, 1230), jointly critical",
        "3: (6, 509, 1231), weak",
        "4: (9, 510, 1232), inert",
        "5: (12, 511, 1233), undetermined",
        "6: (15, 512, 1234), critical",
        "Super weights together",
        "1, 2, 3, 4, 5, 6 together, critical",
        "1, 2 together",
        "A canceller's largest weight",
        "(28, 507, 678)",
        "(29, 507, 1165)",
        "Ordinary weights",
        "20 weights nearest in |w|, each alone",
        *["6 weights at random"] * 3,
        "6 largest other weights",
    ]
    record = synthetic(weights=3)
    record["joint"] *= 2
    assert forest(record) == forest(synthetic(weights=3))
    many = [row.label for row in forest(CASES["many"])]
    assert "1, 2, 3, 4, 5, 6, 7, 8 and 24 more together, critical" in many


def test_ablations_show_ratios_intervals_and_numbers_of_the_record() -> None:
    record = synthetic(weights=3)
    (axes,) = ablations(record).axes
    assert axes.get_xscale() == "log"
    points = {
        (round(float(line.get_ydata()[0]), 1), line.get_marker()): line.get_xdata()[0]
        for line in axes.lines
        if len(line.get_xdata()) == 1
    }
    weight = record["super_weights"][0]
    assert points[1.0, "o"] == weight["perplexity_ratio"]
    assert points[1.3, "D"] == weight["restored"]["perplexity_ratio"]
    intervals = [
        list(line.get_xdata()) for line in axes.lines if line.get_linewidth() == 1.2 and len(line.get_xdata()) == 2
    ]
    assert [math.exp(end) for end in weight["nll_difference_interval"]] in intervals
    texts = [text.get_text() for text in axes.texts]
    assert "× 13.5" in texts and "× 0.998 to × 1.003" in texts
    assert "critical: interval above × 1.105 (0.1 nat)" in texts
    verticals = [line.get_xdata()[0] for line in axes.lines if list(line.get_ydata()) == [0, 1]]
    assert verticals == [1, pytest.approx(math.exp(0.1))]
    joint = next(row for row in forest(record) if row.label == "1, 2 together")
    assert not joint.filled


def test_ratios_beyond_a_million_are_arrows_beside_their_number() -> None:
    (axes,) = ablations(CASES["many"]).axes
    arrows = [line for line in axes.lines if line.get_marker() == ">"]
    assert [line.get_xdata()[0] for line in arrows] == [1e6, 1e6, 1e6]
    assert axes.get_xlim()[1] == 1e6
    assert "× 1.1e+13" in [text.get_text() for text in axes.texts]


def test_small_ratios_and_small_activations_have_labelled_ticks(tmp_path: Path) -> None:
    record = CASES["none"]
    with look():
        figure = ablations(record)
        assert {"×0.9", "×1", "×1.1", "×1.2"} <= {text for text, _ in drawn(figure)}
        flat = copy.deepcopy(record) | {"cancellers": []}
        for layer in flat["layers"]["before"]:
            layer["output"]["value"] = 0.22 + layer["layer"] / 300
        figure = activations(flat)
        figure.draw_without_rendering()
        low, high = figure.axes[2].get_ylim()
        assert len([tick for tick in figure.axes[2].get_yticks() if low <= tick <= high]) >= 2


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("costs $5 and $x^2$ \\frac", "costs $5 and $x^2$ \\frac"),
        ("line\nbreak\tand \ud800", "line break and  "),
        ("/home/" + "long/" * 50 + "model", "…"),
        ("模型", "模型"),
    ],
)
def test_names_are_drawn_as_they_are_but_short(tmp_path: Path, name: str, shown: str) -> None:
    record = synthetic(layers=2, weights=1) | {"model": name, "note": f"{name} " * 30}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(record, tmp_path)
    with look():
        _, title, note = activations(record).texts
    assert shown in title.get_text() and len(title.get_text()) <= 75
    assert not title.get_parse_math() and not note.get_parse_math()
    assert note.get_text().count("\n") <= 3


def test_the_doses_and_the_output_channels_of_schema_2(tmp_path: Path) -> None:
    record = with_doses(synthetic(weights=3))
    record["super_weights"][1]["out"] = record["super_weights"][0]["out"]
    record["super_weights"][1]["layer"] = record["super_weights"][0]["layer"]
    for dose in record["super_weights"][1]["dose"]:
        dose["documents"] = 64
    (axes,) = doses(record).axes
    names = [str(line.get_label()) for line in axes.lines]
    assert [name[-4:] for name in names] == [" (8)", "(64)", " (8)"], "each weight beside its documents"
    assert [list(line.get_xdata()) for line in axes.lines] == [[1, 0.75, 0.5, 0.25, 0]] * 3
    assert list(axes.lines[0].get_ydata())[1:] == [
        dose["perplexity_ratio"] for dose in record["super_weights"][0]["dose"]
    ]
    assert axes.xaxis_inverted() and axes.get_yscale() == "log"
    labels = [row.label for row in forest(record)]
    at = labels.index("A whole output channel")
    assert labels[at + 1 : at + 3] == ["layer 0, out 507", "layer 6, out 509"], "each channel once"
    assert [path.name for path in draw(record, tmp_path)][3:] == ["dose.png"]
    many = with_doses(synthetic(weights=20, huge=True))
    (axes,) = doses(many).axes
    assert len(axes.lines) == 16 and "The first 16 of 20 weights." in " ".join(written(axes.figure))
