"""The README is kept true: its flags and defaults are the program's, and what it names is there.

Its commands are run elsewhere: ./quickstart.sh by tests/test_smollm2.py, sbatch find_sw.sh by tests/slurm/test_find_sw.py.
"""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from swlottery.config import FindSettings

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
SETTINGS = {field.name: field for field in dataclasses.fields(FindSettings)}


def rows():
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in README.splitlines()
        if line.startswith("| `--")
    ]


def test_the_table_of_flags_is_the_programs():
    assert len(rows()) > 8
    for flags, _, default in rows():
        for flag in re.findall(r"`--([a-z-]+)", flags):
            setting = SETTINGS[flag.replace("-", "_")]
            if default and not default.startswith("six"):
                assert str(setting.default).removesuffix(".0") == default.strip("`"), flag


def test_every_flag_in_the_text_exists():
    known = {f"--{name.replace('_', '-')}" for name in SETTINGS} | {"--help", "--gres"}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", README)) <= known


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\((?!http)([^)#]+)\)|`((?:bench|docs)/[\w.]+)`", README))))
def test_what_it_links_to_is_there(path):
    assert (REPOSITORY / (path[0] or path[1])).exists()


def test_there_are_as_many_architectures_as_it_says():
    from swlottery.roles import ROWS

    assert f"of {len(ROWS)}\narchitectures" in README or f"of {len(ROWS)} architectures" in README


def test_help_names_every_flag_of_the_table():
    said = subprocess.run(
        [sys.executable, "-m", "swlottery.cli", "find", "--help"], capture_output=True, text=True
    ).stdout
    assert all(flag in said for flags, *_ in rows() for flag in re.findall(r"--[a-z-]+", flags))
