"""The memory of a find does not grow with its prompts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """\
import resource, sys
from swlottery.cli import main
code = main(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
sys.exit(code)
"""


def peak(flags: list[str]) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "find", *flags],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout.split()[-1])


@pytest.mark.slow
def test_four_hundred_prompts_take_a_fifth_more_memory_than_ten_at_most(find_flags, tmp_path: Path):
    """Of the whole process; before, the activations of every layer at all tokens were held, in float32."""
    peaks = []
    for count in (10, 400):
        prompts = tmp_path / f"{count}.txt"
        prompts.write_text(
            "\n".join(f"Sentence {i} of the many that are looked at together, and no two alike." for i in range(count))
        )
        flags = [*find_flags(tmp_path / f"{count}.json"), "--prompt-file", str(prompts), "--null-draws", "2"]
        peaks.append(min(peak(flags) for _ in range(2)))  # what the heap keeps differs from process to process
    assert peaks[1] <= 1.2 * peaks[0], peaks
