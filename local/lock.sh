# A lock that one process at a time holds, by flock or, without it, by a folder. Sourced; needs log.sh.
# shellcheck shell=bash

LOCK_BASE=  # path of the lock that is held or being taken
LOCK_FD=    # its file descriptor, where flock serves

# take_lock BASE WHAT: wait until the lock BASE is free, saying once WHAT is waited for, and take it.
take_lock() {
    LOCK_BASE=$1
    try_lock && return
    log "waiting for $2"
    until try_lock; do
        sleep 1
    done
}

try_lock() {
    if command -v flock >/dev/null; then
        exec {LOCK_FD}>"$LOCK_BASE"
        flock --nonblock "$LOCK_FD" || { exec {LOCK_FD}>&-; return 1; }
    elif mkdir -- "$LOCK_BASE.d" 2>/dev/null; then
        printf '%s\n' "$$" >"$LOCK_BASE.d/pid"
    else
        # Its maker may have been killed.
        kill -0 "$(cat -- "$LOCK_BASE.d/pid" 2>/dev/null)" 2>/dev/null || rm -rf -- "$LOCK_BASE.d"
        return 1
    fi
}

release_lock() {
    if [[ -n $LOCK_FD ]]; then
        exec {LOCK_FD}>&-
        LOCK_FD=
    else
        rm -rf -- "$LOCK_BASE.d"
    fi
}
