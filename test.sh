#!/bin/bash
# Sets up what is missing, then runs every check of the code. With arguments only pytest, which gets them:
#
#     ./test.sh                      style, types, and all tests but the slow ones
#     ./test.sh tests/find -x        these tests
#     ./test.sh -m slow              the slow ones
set -euo pipefail
SWLOTTERY_ROOT=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")
cd -- "$SWLOTTERY_ROOT"
source scripts/venv.sh
swlottery_smollm2
if [ $# -eq 0 ]; then
    "$SWLOTTERY_PYTHON" -m ruff check
    "$SWLOTTERY_PYTHON" -m ruff format --check
    "$SWLOTTERY_PYTHON" -m mypy
fi
# Three at a time: the tests of Slurm mostly wait, and each of the others is at work on one core.
exec "$SWLOTTERY_PYTHON" -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not slow" "$@"
