# Finding or making the Python environment that everything runs in. Sourced; needs log.sh, lock.sh and process.sh.
# shellcheck shell=bash

VENV=$ROOT/.venv
readonly VENV
# First line: checksum of the setup.py that was installed, or `unfinished`; second line: the extras.
readonly VENV_STATE=$VENV/audiotag-setup

PYTHON=     # the interpreter to use

# find_python [EXTRA...]: set PYTHON to an interpreter that satisfies setup.py and the extras, in this order:
# AUDIOTAG_PYTHON, the active environment when it has everything, else .venv, which is made when needed.
find_python() {
    find_ready_python "$@" || set_up_venv "$@"
}

# find_ready_python [EXTRA...]: the same without making .venv; fails where it would have to be made.
find_ready_python() {
    local active=${VIRTUAL_ENV:-${CONDA_PREFIX:-}} missing
    if [[ -n ${AUDIOTAG_PYTHON:-} ]]; then
        PYTHON=$(command -v -- "$AUDIOTAG_PYTHON") || fail "AUDIOTAG_PYTHON=$AUDIOTAG_PYTHON is not a program"
        [[ $PYTHON == /* ]] || PYTHON=$PWD/$PYTHON
        missing=$(list_missing "$PYTHON" "$@") ||
            fail "AUDIOTAG_PYTHON=$AUDIOTAG_PYTHON lacks ${missing:-a working Python 3}:" \
                "install into it, or unset AUDIOTAG_PYTHON and .venv is made"
        return
    fi
    if [[ -n $active && ! $active -ef $VENV ]]; then
        PYTHON=$active/bin/python
        if missing=$(list_missing "$PYTHON" "$@"); then
            log "using the active environment $active"
            return
        fi
        log "the active environment $active lacks ${missing:-a working Python 3}: using $VENV"
    fi
    PYTHON=$VENV/bin/python
    venv_is_current "$@"
}

# The interpreter that find_python would take, without looking into it.
guess_python() {
    local active=${VIRTUAL_ENV:-${CONDA_PREFIX:-$VENV}}
    PYTHON=${AUDIOTAG_PYTHON:-$active/bin/python}
}

# Print what an interpreter lacks; fails when it lacks something or does not run.
list_missing() {
    "$1" "$ROOT/local/check_requirements.py" "$ROOT/setup.py" "${@:2}" 2>/dev/null
}

# Whether .venv has what the present setup.py and these extras ask for.
venv_is_current() {
    local sum extras extra
    "$PYTHON" -c '' 2>/dev/null || return 1
    # An environment without our state file was made by the user.
    [[ -f $VENV_STATE ]] || { list_missing "$PYTHON" "$@" >/dev/null; return; }
    { read -r sum && read -r extras; } <"$VENV_STATE" || return 1
    [[ $sum == "$(checksum <"$ROOT/setup.py")" ]] || return 1
    for extra in "$@"; do
        [[ ,$extras, == *,$extra,* ]] || return 1
    done
}

# Make .venv or bring it up to date, one process at a time.
set_up_venv() {
    # shellcheck disable=SC2034  # log reads it
    local LOG_LABEL=set-up start=$SECONDS
    mkdir -p -- "$VENV"
    take_lock "$VENV/setup.lock" "another set-up of $VENV"
    # Another process may have done it while this one waited for the lock.
    if ! venv_is_current "$@"; then
        install_into_venv "$@"
        log "finished in $(format_duration $((SECONDS - start))): $VENV"
    fi
    release_lock
}

# Create the environment unless a whole one is there, then install the project with the extras.
install_into_venv() {
    local sum='' extras='' log_file=$VENV/setup.log caller_dir=$PWD
    local -a pip command
    if [[ -f $VENV_STATE ]]; then
        { read -r sum && read -r extras; } <"$VENV_STATE" || sum=unfinished
    fi
    if [[ $sum == unfinished ]] || ! "$PYTHON" -c '' 2>/dev/null; then
        create_venv "$log_file"
        extras=
    fi
    # What an earlier set-up installed stays: the tests' extra is not lost when run.sh follows setup.py.
    extras=$(printf '%s\n' "$@" "${extras//,/$'\n'}" | sed '/^$/d' | sort -u | paste -s -d , -)
    printf 'unfinished\n%s\n' "$extras" >"$VENV_STATE"
    log "installing audiotag${extras:+[$extras]} and what it needs, several GB: some minutes; log: $log_file"
    choose_pip
    # A user's own PYTHONPATH or pip --user must not decide what .venv holds.
    command=(env -u PYTHONPATH PIP_USER=0 "${pip[@]}" -e ".${extras:+[$extras]}")
    cd -- "$ROOT" || exit
    run_logged "$log_file" show_downloads "${command[@]}" ||
        set_up_failed "$log_file" "the installation failed" "${command[@]}"
    cd -- "$caller_dir" || exit
    printf '%s\n%s\n' "$(checksum <"$ROOT/setup.py")" "$extras" >"$VENV_STATE"
}

# Empty the folder, lock aside, and make an environment there.
create_venv() {
    local base
    local -a command
    if [[ -n $(find "$VENV/" -mindepth 1 -maxdepth 1 ! -name 'setup.lock*' -print -quit) ]]; then
        [[ -f $VENV_STATE || -f $VENV/pyvenv.cfg ]] ||
            fail "$VENV is not a Python environment: move it away and run again"
        log "removing the unfinished or broken environment in $VENV"
        printf 'unfinished\n\n' >"$VENV_STATE"
        find "$VENV/" -mindepth 1 -maxdepth 1 ! -name 'setup.lock*' ! -name audiotag-setup -exec rm -rf -- {} +
    fi
    printf 'unfinished\n\n' >"$VENV_STATE"
    if command -v uv >/dev/null; then
        command=(uv venv --allow-existing --python '>=3.10' "$VENV")
    else
        base=$(find_base_python) || exit
        command=("$base" -m venv "$VENV")
        "$base" -c 'import ensurepip' 2>/dev/null || command+=(--without-pip)
    fi
    log "making $VENV: $(quote_command "${command[@]}")"
    run_logged "$1" cat "${command[@]}" || set_up_failed "$1" "no environment could be made" "${command[@]}"
}

# Print the Python to make the environment from.
find_base_python() {
    local name oldest=''
    for name in python3 python3.14 python3.13 python3.12 python3.11 python3.10 python; do
        command -v "$name" >/dev/null || continue
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            "$name" -c 'import venv' 2>/dev/null ||
                fail "$(command -v "$name") has no venv module: install it (Debian, Ubuntu:" \
                    "apt install python3-venv), or uv"
            command -v "$name"
            return
        fi
        oldest=${oldest:-$(command -v "$name") is $("$name" --version 2>&1)}
    done
    fail "Python 3.10 or newer is needed${oldest:+, but $oldest}: install it, or name one in AUDIOTAG_PYTHON"
}

# Set `pip` to the command that installs into .venv.
choose_pip() {
    local base
    # Byte code is written when a module is first imported, and compiling all of torch takes a minute. But where
    # Python is told not to write it, each process would compile torch for itself.
    local compile=${PYTHONDONTWRITEBYTECODE:+--compile}
    if command -v uv >/dev/null; then
        pip=(uv pip install --python "$PYTHON" ${compile:+--compile-bytecode})
        return
    fi
    pip=("$PYTHON" -m pip)
    if ! "${pip[@]}" --version >/dev/null 2>&1; then
        # A system without ensurepip: its own pip can serve another environment.
        base=$(find_base_python) || exit
        # Pip learned to serve another environment in version 22.3.
        "$base" -m pip --python "$PYTHON" --version >/dev/null 2>&1 ||
            fail "$base has neither ensurepip nor a pip of 22.3 or newer: install one (Debian, Ubuntu:" \
                "apt install python3-venv), or uv"
        pip=("$base" -m pip --python "$PYTHON")
    fi
    pip+=(install --disable-pip-version-check --no-input "${compile:---no-compile}" --use-pep517)
}

# Of the installer's output show only what takes long.
show_downloads() {
    local line
    while IFS= read -r line; do
        if [[ $line =~ ^\ *(Downloading\ .*\(([0-9]{3}[0-9.]*\ ?Mi?B|[0-9.]+\ ?Gi?B)\)) ]]; then
            printf '    %s\n' "${BASH_REMATCH[1]}"
        elif [[ $line == 'Installing collected packages'* ]]; then
            printf '    %s\n' 'Installing the packages'
        fi
    done
}

# set_up_failed LOG WHAT COMMAND...: show the end of the log and leave.
set_up_failed() {
    printf '%s\n' "    command: $(quote_command "${@:3}")" "    end of the log:" >&2
    tail -n 20 -- "$1" | sed 's/^/    | /' >&2
    fail "$2; whole log: $1"
}

# Print a checksum of stdin.
checksum() {
    if command -v sha256sum >/dev/null; then
        sha256sum
    else
        shasum -a 256
    fi | cut -c 1-16
}
