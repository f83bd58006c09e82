# shellcheck shell=bash
# Sourced by find_sw.sh and func_train.sh once SWLOTTERY_ROOT is known: runs one command of swlottery with its log.
# Sets nothing up that a finished job leaves behind but that log. The code is in $swlottery_code, or in the root too.

# swlottery_job NAME COMMAND STEM BATCH [flags]: log STEM_<time>.out below the root, or Slurm's own where BATCH is yes.
#
# Of a terminal that is closed the kernel tells only the first process of its session, and the others when that one has
# ended. So where this shell is the first (ssh -t HOST bash func_train.sh), it waits for another one, and nothing else.
swlottery_job() {
    local session='' terminal=''
    read -r _ _ _ _ _ session terminal _ 2>/dev/null <"/proc/$$/stat" || true
    if [ "$4" = no ] && [ "$session" = $$ ] && [ "$terminal" != 0 ]; then
        trap : INT TERM USR1
        (swlottery_logged "$@")
        exit
    fi
    swlottery_logged "$@"
}

# In a pipe to the log. Whatever ends the program, or takes the terminal or the next reader away, the log gets all of it.
swlottery_tee() {
    trap '' INT TERM HUP PIPE
    exec tee -a "$swlottery_log"
}

swlottery_logged() {
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
        trap 'code=$?; printf "%s\n" "$swlottery_name: log $swlottery_log" "$swlottery_name: exit code $code" | swlottery_tee || true' EXIT
    fi

    # From here on a warning of the time limit or of a preemption only leaves a note; by itself it would end this script.
    swlottery_asked=no
    trap 'swlottery_asked=yes' USR1
    source "${swlottery_code:=$SWLOTTERY_ROOT}/scripts/venv.sh"
    export PYTHONUNBUFFERED=1 PYTHONUTF8=1 PYTHONSAFEPATH=1
    # Ctrl-C, TERM and HUP reach Python as well, which leaves everything whole and says so. This script waits for it.
    # Not '': Python would take HUP for ignored, as under nohup.
    trap : INT TERM HUP
    code=0
    if [ "$batch" = yes ] && [ "$command" = train ]; then
        swlottery_step "$@"
    elif [ "$batch" = yes ] || [ $help = yes ]; then
        "$SWLOTTERY_PYTHON" -c "$swlottery_main" "$command" "$@" || code=$?
    elif [ -t 2 ]; then
        # Progress bars go to stderr if that is a terminal, and so never into the log.
        "$SWLOTTERY_PYTHON" -c "$swlottery_main" "$command" "$@" | swlottery_tee || code=${PIPESTATUS[0]}
    else
        # Error messages belong in the log too. Each stream has a tee of its own: 3 is the way out for stderr, 4 for stdout.
        {
            {
                trap : INT TERM HUP
                "$SWLOTTERY_PYTHON" -c "$swlottery_main" "$command" "$@" 2>&3 | swlottery_tee >&4
                exit "${PIPESTATUS[0]}"
            } 3>&1 | swlottery_tee >&2
        } 4>&1 || code=${PIPESTATUS[0]}
    fi
    exit "$code"
}

# swlottery_step [flags]: training as a job step, one process a task, that can be stopped and started again. Sets `code`.
#
# The step runs in the background, since a shell handles no signal while it waits for a program in front. USR1 is passed
# on to it: the processes save and end with 75. TERM is not: srun would kill them, and they get their own from Slurm.
swlottery_step() {
    local step="" bind=()
    # A batch script runs on the first of the job's nodes, as the step's first task does.
    local -x MASTER_ADDR=$SLURMD_NODENAME MASTER_PORT=$((10000 + SLURM_JOB_ID % 20000)) SWLOTTERY_BATCH_JOB=$SLURM_JOB_ID
    if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK; fi
    code=75
    if [ "$swlottery_asked" = no ]; then
        # A task that ends early leaves the others half a minute: they save together, or say which of them is lost.
        # Every task sees all of its node's GPUs, and takes its own: bound to one each, they could not reach each other's memory.
        if env | grep -q '^SLURM_[A-Z_]*GPUS'; then bind=(--gpu-bind=none); fi
        # What is set here is the step's too, also where sbatch was given --export=NONE.
        srun --export=ALL --kill-on-bad-exit=0 --wait=30 ${bind[@]+"${bind[@]}"} "$SWLOTTERY_PYTHON" -c "$swlottery_main" train "$@" &
        step=$!
        trap 'swlottery_asked=yes; kill -USR1 $step 2>/dev/null || true' USR1
        if [ "$swlottery_asked" = yes ]; then kill -USR1 $step 2>/dev/null || true; fi # between the last two lines
        while kill -0 $step 2>/dev/null; do wait $step || true; done # wait comes back for every signal
        wait $step && code=0 || code=$?
    fi
    swlottery_requeue
}

# swlottery_requeue: have the job started again if it was stopped (75) or its only process was killed from outside, and
# if nobody has cancelled it: a job that is being cancelled, or requeued by Slurm itself, is not RUNNING any more.
swlottery_requeue() {
    local job=$SLURM_JOB_ID state restarts=${SLURM_RESTART_COUNT:-0} most=${SWLOTTERY_REQUEUES:-20}
    case $most in *[!0-9]*) most=20 ;; esac
    case $code in
        75) ;;
        129 | 137 | 138 | 143 | 253) # KILL; HUP, USR1 or TERM before they are handled; Slurm's word for out of memory
            if [ "${SLURM_NTASKS:-1}" -ne 1 ] && [ "$swlottery_asked" = no ]; then return; fi ;;
        *) return ;;
    esac
    # The plain id of an array's last task names the whole array.
    if [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID; fi
    state=$(scontrol --oneliner show job "$job" 2>/dev/null | grep -o 'JobState=[A-Z_]*' | head -n 1) || state=
    if [ "$state" != JobState=RUNNING ]; then
        echo "$swlottery_name: not requeued by itself: the job is ${state#JobState=}; if it was cancelled, submit it again, and it goes on"
    elif [ "$restarts" -ge "$most" ]; then
        echo "$swlottery_name: not requeued: started again $restarts times already (SWLOTTERY_REQUEUES=$most); submit it again, and it goes on"
    else
        echo "$swlottery_name: exit code $code, requeue $((restarts + 1)) of at most $most"
        trap - EXIT # requeueing ends this script
        if scontrol requeue "$job"; then exit "$code"; fi
        echo "$swlottery_name: scontrol requeue failed; submit it again, and it goes on"
    fi
}
