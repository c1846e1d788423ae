# Log lines, errors and the quoting of commands. Sourced.
# shellcheck shell=bash

LOG_LABEL=run

# Print a log line with the time and what it is about: `2026-11-21 03:00:00 [stage 2: features] ...`.
log() {
    printf '%(%Y-%m-%d %H:%M:%S)T [%s] %s\n' -1 "$LOG_LABEL" "$*"
}

# End with an error line and exit code 2, as for any mistake in options or settings.
fail() {
    log "error: $*" >&2
    exit 2
}

# Print a command so that it can be pasted into a shell.
quote_command() {
    local word words=()
    for word in "$@"; do
        if [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then
            words+=("$word")
        else
            words+=("${word@Q}")
        fi
    done
    printf '%s\n' "${words[*]}"
}

# Print a number of seconds as h:mm:ss.
format_duration() {
    printf '%d:%02d:%02d\n' "$(($1 / 3600))" "$(($1 % 3600 / 60))" "$(($1 % 60))"
}
