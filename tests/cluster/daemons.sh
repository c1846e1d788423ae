# What starting and stopping a test's cluster have in common: which of its daemons run. Sourced; needs FOLDER.
# shellcheck shell=bash

fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# pid_of DAEMON: print the process of a daemon by the name of its pid file, if it lives and is this cluster's.
pid_of() {
    local pid
    { read -r pid <"$FOLDER/$1.pid"; } 2>/dev/null && [[ -r /proc/$pid/cmdline ]] || return 1
    # The number may have been given to another process since.
    [[ $(<"/proc/$pid/comm") == "${1%-n*}" ]] && tr '\0' ' ' <"/proc/$pid/cmdline" | grep -qF -- "$FOLDER/" || return 1
    printf '%s\n' "$pid"
}

is_running() {
    pid_of "$1" >/dev/null
}
