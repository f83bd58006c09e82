#!/bin/bash
# Where are the super weights of a model, and do they matter?
#
#     sbatch find_sw.sh [flags]            from the repository's root; from elsewhere: sbatch -D ROOT ROOT/find_sw.sh [flags]
#     bash find_sw.sh [flags]              from anywhere, without Slurm
#
# The flags are those of `swlottery find`: bash find_sw.sh --help. The log is
# super_weights/src/slurm_sw_out/checkmodel_<job>.out, and ends with the line "find_sw: exit code N".
#
# Only what is the same on every cluster stands here. Partition, account, GPU, memory come from the command line
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
# So a copy that stands in no repository was started by sbatch; one that does was started by hand, even if that was
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

help=no
for flag in "$@"; do
    case $flag in -h | --help) help=yes ;; esac
done

if [ $batch = yes ]; then
    log=$(readlink "/proc/$$/fd/1") || log= # whatever --output said
    trap 'code=$?; echo "find_sw: log ${log:-is where --output said}"; echo "find_sw: exit code $code"' EXIT
elif [ $help = no ]; then
    folder=$SWLOTTERY_ROOT/super_weights/src/slurm_sw_out
    mkdir -p -- "$folder" 2>/dev/null || true
    if [ ! -w "$folder" ]; then
        echo "find_sw: cannot write the log in $folder" >&2
        exit 2
    fi
    # Two runs in one second do not share a log: noclobber creates the file or fails.
    stem=$folder/checkmodel_$(date +%Y%m%d_%H%M%S) number=1
    log=$stem.out
    until (set -o noclobber && : >"$log") 2>/dev/null; do
        number=$((number + 1))
        log=${stem}_$number.out
    done
    trap 'code=$?; printf "%s\n" "find_sw: log $log" "find_sw: exit code $code" | tee -a "$log"' EXIT
fi

source "$SWLOTTERY_ROOT/scripts/venv.sh"
export PYTHONUNBUFFERED=1 PYTHONUTF8=1
find_sw() { "$SWLOTTERY_PYTHON" -m swlottery.cli find "$@"; }

# Ctrl-C and TERM reach Python as well, which puts the weights back and says so. This script waits for it.
trap : INT TERM
code=0
if [ $batch = yes ] || [ $help = yes ]; then
    find_sw "$@" || code=$?
elif [ -t 2 ]; then
    # Progress bars go to stderr if that is a terminal, and so never into the log.
    find_sw "$@" | tee -ia "$log" || code=${PIPESTATUS[0]}
else
    # Error messages belong in the log too. Each stream has a tee of its own: 3 is the way out for stderr, 4 for stdout.
    { { find_sw "$@" 2>&3 | tee -ia "$log" >&4; exit "${PIPESTATUS[0]}"; } 3>&1 | tee -ia "$log" >&2; } 4>&1 || code=${PIPESTATUS[0]}
fi
exit "$code"
