#!/bin/bash
# Where are the super weights of a model, and do they matter?
#
#     sbatch find_sw.sh [flags]            from the repository's root; from elsewhere: sbatch -D ROOT ROOT/find_sw.sh [flags]
#     bash find_sw.sh [flags]              from anywhere, without Slurm
#
# The flags are those of `swlottery find`: bash find_sw.sh --help. The log is
# super_weights/src/slurm_sw_out/checkmodel_<job>.out, and ends with the line "find_sw: exit code N".
#
# This file holds only what is the same on every cluster. Partition, account, GPU, memory come from the command line
# (sbatch --partition=gpu --gres=gpu:1 find_sw.sh ...) or from SBATCH_PARTITION, SBATCH_ACCOUNT, SBATCH_GRES, ...
#SBATCH --job-name=find_sw
#SBATCH --output=super_weights/src/slurm_sw_out/checkmodel_%j.out
#SBATCH --open-mode=append
#SBATCH --time=01:00:00
#SBATCH --nodes=1
#SBATCH --ntasks=1

set -euo pipefail

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
if ! is_root "$SWLOTTERY_ROOT"; then
    echo "find_sw: $SWLOTTERY_ROOT is not the root of the swlottery repository; submit with: sbatch -D ROOT ROOT/find_sw.sh" >&2
    if [ $batch = yes ]; then echo "find_sw: exit code 2"; fi
    exit 2
fi

source "$SWLOTTERY_ROOT/scripts/job.sh"
swlottery_job find_sw find super_weights/src/slurm_sw_out/checkmodel "$batch" "$@"
