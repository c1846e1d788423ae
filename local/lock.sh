# A lock that one process at a time holds, by flock or, without it, by a folder. Sourced; needs log.sh.
# shellcheck shell=bash

LOCK_BASE=  # path of the lock that is held or being taken
LOCK_FD=    # its file descriptor, where flock serves

# take_lock BASE WHAT: wait until the lock BASE is free, saying once WHAT is waited for, and take it.
take_lock() {
    LOCK_BASE=$1
    try_lock && return
    log "waiting for $2$(lock_holder)"
    until try_lock; do
        sleep 1
    done
}

try_lock() {
    if command -v flock >/dev/null; then
        { exec {LOCK_FD}>>"$LOCK_BASE"; } 2>/dev/null || refuse_lock
        flock --nonblock "$LOCK_FD" || { exec {LOCK_FD}>&-; return 1; }
        describe_holder >"$LOCK_BASE"
    elif mkdir -- "$LOCK_BASE.d" 2>/dev/null; then
        describe_holder >"$LOCK_BASE.d/holder"
    elif [[ ! -w ${LOCK_BASE%/*} ]]; then
        refuse_lock
    else
        # Its maker may have been killed; of one on another machine nothing is known.
        is_dead "$LOCK_BASE.d/holder" && rm -rf -- "$LOCK_BASE.d"
        return 1
    fi
}

# Leave with the exit code of what cannot be written: waiting would not help.
refuse_lock() {
    local place=$LOCK_BASE
    [[ $place == /* ]] || place=$PWD/$place
    log "error: cannot write the lock $place: check its permissions, and that the disk is not full" >&2
    exit 6
}

# Print who takes the lock: process, machine, the scheduler's job, and since when.
describe_holder() {
    local job=${SLURM_JOB_ID:-${PBS_JOBID:-${LSB_JOBID:-${JOB_ID:-}}}}
    printf 'process %s on %s%s, since %s\n' "$$" "$(uname -n)" "${job:+, job $job}" "$(date '+%Y-%m-%d %H:%M:%S')"
}

# Print who has the lock, in brackets; nothing where that is not known.
lock_holder() {
    local file=$LOCK_BASE line=
    [[ ! -d $LOCK_BASE.d ]] || file=$LOCK_BASE.d/holder
    { read -r line <"$file"; } 2>/dev/null || true
    [[ $line != 'process '* ]] || printf ' (%s)\n' "$line"
}

# Whether the holder that a file names was a process of this machine, and has ended.
is_dead() {
    local pid on host
    { read -r _ pid on host _ <"$1"; } 2>/dev/null || return 1
    [[ $on == on && ${host%,} == "$(uname -n)" ]] && ! kill -0 "$pid" 2>/dev/null
}

release_lock() {
    if [[ -n $LOCK_FD ]]; then
        exec {LOCK_FD}>&-
        LOCK_FD=
    else
        rm -rf -- "$LOCK_BASE.d"
    fi
}
