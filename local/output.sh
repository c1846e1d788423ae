# The output of a stage's program: what of it is shown, the exit code that it tells of, and the report of a failure.
# Sourced; needs log.sh and process.sh.
# shellcheck shell=bash

# How torchrun names the ends of processes that were asked to: saved, or interrupted before there was anything to save.
readonly ASKED="($STOPPED|130|-2)"

# Pass stdin on without what torchrun has to say of processes that were asked to stop or must not start again.
hide_torchrun() {
    hide_traces | hide_stops
}

# Pass stdin on without anything that torchrun says itself.
hide_launcher() {
    hide_traces | sed -u -E '/^(W[0-9]{4} .*torch\/distributed|\*{20,}$)/d; /^E[0-9]{4} .*torch\/distributed/,$d'
}

# Pass stdin on without the tracebacks of what Ctrl-C has ended before it could take notice, as while it imports
# modules, and of a torchrun that its own processes have ended by SIGHUP.
hide_traces() {
    local line trace=()
    local begins='^(Traceback \(most recent call last\):|Fatal Python error: init_import_site: .*)$'
    local goes_on='^( .*|Python runtime state: .*|Traceback \(most recent call last\):)$'
    local ends='^(KeyboardInterrupt|.*\.SignalException: .* got signal: [12])$'
    local warns='^W[0-9]{4} .*(closing signal SIG(HUP|INT)|Received [12] death signal)'
    while IFS= read -r line || [[ -n $line ]]; do
        if [[ $line =~ $begins || (${#trace[@]} -gt 0 && $line =~ $goes_on) ]]; then
            trace+=("$line")
        elif [[ ${#trace[@]} -gt 0 && $line =~ $ends ]]; then
            trace=()
        elif [[ ! $line =~ $warns ]]; then
            printf '%s\n' ${trace[@]+"${trace[@]}"} "$line"
            trace=()
        fi
    done
    ((${#trace[@]} == 0)) || printf '%s\n' "${trace[@]}"
}

# Pass stdin on without torchrun's report of processes that have only stopped as they were asked to.
hide_stops() {
    local line rules held=()
    local begins="^E[0-9]{4} .* failed \\(exitcode: $ASKED\\)"
    while IFS= read -r line || [[ -n $line ]]; do
        # From torchrun's first word on it to the second rule of its table.
        if ((${#held[@]} == 0)) && [[ ! $line =~ $begins ]]; then
            printf '%s\n' "$line"
            continue
        fi
        ((${#held[@]})) || rules=0
        held+=("$line")
        [[ ! $line =~ ^={20,}$ ]] || rules=$((rules + 1))
        if ((rules == 2)); then
            show_failures
            held=()
        fi
    done
    ((${#held[@]} == 0)) || show_failures
}

# Print the lines that are held when they tell of a process that left with another status.
show_failures() {
    local code
    while read -r code; do
        if [[ ! $code =~ ^$ASKED$ ]]; then
            printf '%s\n' "${held[@]}"
            return
        fi
    done < <(printf '%s\n' "${held[@]}" | sed -n -E 's/^ *exitcode *: *(-?[0-9]+) .*/\1/p')
}

# report_failure STATUS LOG SECONDS: say what failed and where to look, and leave with its status.
report_failure() {
    local lines first
    mapfile -t lines < <(this_run "$2")
    # The header, two lines, repeats what is said here.
    first=$((${#lines[@]} > 22 ? ${#lines[@]} - 20 : 2))
    {
        log "FAILED with exit code $1 after $(format_duration "$3")"
        (($1 != 137)) || printf '%s\n' "  the process was killed (SIGKILL), by the system perhaps for want of memory"
        # With several processes the launcher's own report pushes the error far up.
        printf '%s\n' "${lines[@]:0:first}" | grep -E '^error: ' | sort -u | head -n 3 | sed 's/^/  /' || true
        printf '%s\n' "  command: cd $(quote_command "$PWD") && $(quote_command env "${ENVIRONMENT[@]}" "${COMMAND[@]}")"
        printf '%s\n' "  end of the log:"
        [[ ${#lines[@]} -le 2 ]] || printf '    | %s\n' "${lines[@]:first}"
        printf '%s\n' "  whole log: $2"
    } >&2
    exit "$1"
}

# own_status STATUS LOG: print the exit code of the process that failed first: torchrun's own is 1 whatever
# happened, also when it passed on a signal and all of them have stopped as they were asked to.
own_status() {
    local code
    if (($1 != 0)) && this_run "$2" | grep -E '^stopped by SIG[A-Z0-9]+ (after (update|[0-9]+ of)|while it waited) ' >/dev/null; then
        printf '%s\n' "$STOPPED"
        # In the handler of a signal, without a number, it would be that of what was interrupted.
        return 0
    fi
    code=$(this_run "$2" |
        sed -n -E 's/^ *exitcode *: *(-?[0-9]+) .*/\1/p; s/^(\[rank [0-9]+\] )?not to be started again: exit code //p' |
        tail -n 1)
    code=${code:-$1}
    # Torchrun gives the signal that ended a process as a negative number, a shell adds it to 128.
    printf '%s\n' "$((code < 0 ? 128 - code : code))"
}

# Print the part of a log that belongs to the latest run; earlier ones stay in the file.
this_run() {
    # shellcheck disable=SC2016  # sed's own $
    sed -n -E 'H; /^[-0-9]{10} [:0-9]{8} \[stage [0-9]: [a-z]+\] started$/h; ${x;p;}' "$1"
}
