# Sourced by find_sw.sh and func_train.sh once SWLOTTERY_ROOT is known: runs one command of swlottery with its log.
# Sets nothing up that a finished job leaves behind but that log.

# swlottery_job NAME COMMAND STEM BATCH [flags]: log STEM_<time>.out below the root, or Slurm's own where BATCH is yes.
swlottery_job() {
    local name=$1 command=$2 stem=$SWLOTTERY_ROOT/$3 batch=$4 help=no flag folder number=1
    shift 4
    for flag in "$@"; do
        case $flag in -h | --help) help=yes ;; esac
    done
    swlottery_name=$name
    if [ "$batch" = yes ]; then
        swlottery_log=$(readlink "/proc/$$/fd/1") || swlottery_log= # whatever --output said
        trap 'code=$?; echo "$swlottery_name: log ${swlottery_log:-is where --output said}"; echo "$swlottery_name: exit code $code"' EXIT
    elif [ $help = no ]; then
        folder=$(dirname -- "$stem")
        mkdir -p -- "$folder" 2>/dev/null || true
        if [ ! -d "$folder" ] || [ ! -w "$folder" ]; then
            echo "$name: cannot write the log in $folder" >&2
            exit 2
        fi
        # Two runs in one second do not share a log: noclobber creates the file or fails.
        stem=${stem}_$(date +%Y%m%d_%H%M%S)
        swlottery_log=$stem.out
        until (set -o noclobber && : >"$swlottery_log") 2>/dev/null; do
            number=$((number + 1))
            swlottery_log=${stem}_$number.out
            if [ $number -gt 99 ]; then # no hundred runs in one second: the folder takes no file
                trap - EXIT
                echo "$name: cannot write the log in $folder" >&2
                exit 2
            fi
        done
        trap 'code=$?; printf "%s\n" "$swlottery_name: log $swlottery_log" "$swlottery_name: exit code $code" | tee -a "$swlottery_log"' EXIT
    fi

    source "$SWLOTTERY_ROOT/scripts/venv.sh"
    export PYTHONUNBUFFERED=1 PYTHONUTF8=1
    # Ctrl-C and TERM reach Python as well, which leaves everything whole and says so. This script waits for it.
    trap : INT TERM
    code=0
    if [ "$batch" = yes ] || [ $help = yes ]; then
        "$SWLOTTERY_PYTHON" -m swlottery.cli "$command" "$@" || code=$?
    elif [ -t 2 ]; then
        # Progress bars go to stderr if that is a terminal, and so never into the log.
        "$SWLOTTERY_PYTHON" -m swlottery.cli "$command" "$@" | tee -ia "$swlottery_log" || code=${PIPESTATUS[0]}
    else
        # Error messages belong in the log too. Each stream has a tee of its own: 3 is the way out for stderr, 4 for stdout.
        { { "$SWLOTTERY_PYTHON" -m swlottery.cli "$command" "$@" 2>&3 | tee -ia "$swlottery_log" >&4; exit "${PIPESTATUS[0]}"; } 3>&1 |
            tee -ia "$swlottery_log" >&2; } 4>&1 || code=${PIPESTATUS[0]}
    fi
    exit "$code"
}
