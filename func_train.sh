#!/bin/bash
# Five rounds of training, pruning and rewinding, with every super weight tracked. Do they survive?
#
#     sbatch func_train.sh [flags]            from the repository's root; from elsewhere: sbatch -D ROOT ROOT/func_train.sh [flags]
#     bash func_train.sh [flags]              from anywhere, without Slurm
#
# The flags are those of `swlottery train`: bash func_train.sh --help. The log is
# logs/lth_hf_out_<job>.out, and ends with the line "func_train: exit code N".
#
# This file holds only what is the same on every cluster. Partition, account, GPU, memory come from the command line
# (sbatch --partition=gpu --gres=gpu:1 func_train.sh ...) or from SBATCH_PARTITION, SBATCH_ACCOUNT, SBATCH_GRES, ...
#SBATCH --job-name=func_train
#SBATCH --output=logs/lth_hf_out_%j.out
#SBATCH --open-mode=append
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --nodes=1
#SBATCH --ntasks=1

set -euo pipefail

swlottery_code='' swlottery_python='' # `swlottery sweep` writes here where its frozen copy is: nothing loses it then

is_root() { [ -f "$1/pyproject.toml" ] && [ -d "$1/src/swlottery" ]; }

# sbatch runs a copy of this file from its spool folder, in the folder that it was submitted from (or that -D names).
# So a copy outside of any repository was started by sbatch; one inside was started by hand, even if that was
# inside of an allocation (salloc, srun), where SLURM_JOB_ID is set as well.
SWLOTTERY_ROOT=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")
batch=no
if ! is_root "$SWLOTTERY_ROOT" && [ -n "${SLURM_JOB_ID:-}" ]; then
    batch=yes
    SWLOTTERY_ROOT=$PWD
fi
if ! is_root "${swlottery_code:=$SWLOTTERY_ROOT}"; then
    echo "func_train: $SWLOTTERY_ROOT is not the root of the swlottery repository; submit with: sbatch -D ROOT ROOT/func_train.sh" >&2
    if [ $batch = yes ]; then echo "func_train: exit code 2"; fi
    exit 2
fi

source "$swlottery_code/scripts/job.sh"
swlottery_job func_train train logs/lth_hf_out "$batch" "$@"
