"""One bit of a file of a study's folder is another; and names in such files that lead out of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swlottery.cli import main
from swlottery.errors import BadInput
from swlottery.runtime import sums
from swlottery.study.grid import Point, Study
from swlottery.study.states import states
from swlottery.study.sweep import _write, point_settings, write_study

POINTS = [Point(f"lr{number}", {"lr": number / 1000, "seed": number}) for number in (1, 2, 3)]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "study"
    write_study(folder, Study("study", POINTS))
    _write(folder, POINTS, {}).with_suffix(".job").write_text("here\n")
    return folder


def known(folder: Path) -> list[tuple[str, str]]:
    return [(one.label, one.task) for one in states(folder)]


def asked(path: Path) -> list[dict[str, Any]]:
    return [point_settings(path, str(number)) for number in range(3)]


def test_every_bit_of_a_study_counts(study: Path) -> None:
    points = next((study / "points").glob("*.jsonl"))
    right, right_settings = known(study), asked(points)
    assert right == [(point.label, "here") for point in POINTS]
    assert right_settings == [point.settings for point in POINTS]

    @settings(max_examples=300, deadline=None)
    @given(
        st.sampled_from([study / "study.json", points]),
        st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0, 1),
        st.integers(0, 7),
    )
    def one(path: Path, part: float, bit: int) -> None:
        content = path.read_bytes()
        changed = bytearray(content)
        changed[round(part * (len(content) - 1))] ^= 1 << bit
        path.write_bytes(changed)
        try:
            for question, answer in ((lambda: known(study), right), (lambda: asked(points), right_settings)):
                try:
                    assert question() == answer, "a blank is another, or the hash's name"
                except BadInput as error:
                    assert path.name in str(error) and "\n" not in str(error)
        finally:
            path.write_bytes(content)

    one()


def test_a_damaged_line_does_not_move_the_others(study: Path) -> None:
    """As a line break it would give every task behind it the settings of another."""
    points = next((study / "points").glob("*.jsonl"))
    points.write_bytes(points.read_bytes().replace(b", ", b"\x0c ", 1))
    for task in "012":
        with pytest.raises(BadInput, match="no line"):
            point_settings(points, task)


def test_status_names_the_file(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    points = next((study / "points").glob("*.jsonl"))
    points.write_bytes(points.read_bytes().replace(b'"seed": 2', b'"seed": 3', 1))
    assert main(["status", str(study)]) == 2
    assert f"{points} is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("label", ["../outside", "/etc", "a/b", "..", ".", "", "a\nb"])
def test_no_label_leads_out_of_the_study(label: str, study: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside.out").write_text("another's secret\n")
    content = {"name": "study", "points": [{"label": label, "settings": {}}]}
    for stored in (content, sums.sealed(content)):
        (study / "study.json").write_text(json.dumps(stored))
        with pytest.raises(BadInput, match="is damaged"):
            states(study)


@pytest.mark.parametrize("job", ["../../outside", "/etc/x", "12\n13", "", "-1"])
def test_no_job_leads_out_of_the_study(job: str, study: Path, tmp_path: Path) -> None:
    (tmp_path / "outside_0.out").write_text("another's secret\n")
    next((study / "points").glob("*.job")).write_text(job)
    with pytest.raises(BadInput, match="holds no number of a job"):
        states(study)


def test_files_of_earlier_versions_have_no_hash(study: Path) -> None:
    points = next((study / "points").glob("*.jsonl"))
    points.write_text("".join(json.dumps(point.entry()) + "\n" for point in POINTS))
    content = {"name": "study", "points": [point.entry() for point in POINTS]}
    (study / "study.json").write_text(json.dumps(content))
    assert known(study) == [(point.label, "here") for point in POINTS]
    assert asked(points) == [point.settings for point in POINTS]
