# Running a program with its output in a log, so that a signal to the driver ends all that it started.
# Sourced; needs log.sh, requeue.sh and output.sh.
# shellcheck shell=bash

# Seconds between passing on a signal and killing what is still there.
GRACE_S=40

# What a program leaves with that was asked to stop, has saved, and goes on when started again.
readonly STOPPED=75

# How the work goes on after that; the driver knows of options that must go first.
GO_ON="the same command goes on from there"

# Whether this driver runs one of the folds for another driver.
readonly IS_PART=${AUDIOTAG_PART:-no}
export -n AUDIOTAG_PART

CHILD=      # process group of the running program
CHILD_LOG=  # where its output goes
WRITER=     # process that writes its log
DESCENDANTS=  # what it had started when a signal came

# Install the handlers; without them bash would answer a signal only after the running program's end.
trap_signals() {
    trap 'stop_on_signal INT 130' INT
    trap 'stop_on_signal TERM 143' TERM
    trap 'stop_on_signal HUP 129' HUP
    trap 'stop_on_signal USR1 138' USR1
    # The start of the driver, and of a job's script, keeps a notice that came before.
    [[ ${AUDIOTAG_NOTICED:-no} == no ]] || stop_on_signal USR1 138
}

# run_logged LOG FILTER COMMAND...: run a program, append its output to LOG and show what FILTER (a command
# that reads stdin) lets through; the program's own exit status.
run_logged() {
    local log_file=$1 filter=$2 status=0 sink
    shift 2
    # The writer ignores signals: it ends when the program has closed its output.
    exec {sink}> >(
        trap '' INT TERM HUP USR1
        tee -a -- "$log_file" | "$filter"
    )
    WRITER=$!
    # Job control gives the program a process group of its own, which can be signalled as a whole.
    set -m
    "$@" >&"$sink" 2>&1 {sink}>&- </dev/null &
    CHILD=$!
    CHILD_LOG=$log_file
    set +m
    exec {sink}>&-
    # A signal at which the program goes on ends `wait` too.
    GOES_ON=yes
    while [[ $GOES_ON == yes ]]; do
        GOES_ON=no
        status=0
        # bash's own word on a killed job would repeat what the driver reports.
        wait "$CHILD" 2>/dev/null || status=$?
    done
    # What the program left running (a worker whose parent was killed) must not outlive it.
    kill -KILL -- "-$CHILD" 2>/dev/null || true
    CHILD=
    await_writer
    return "$status"
}

# Let the writer finish the log; do not wait long for a stranger who still holds the pipe open.
await_writer() {
    local tick
    for ((tick = 0; tick < 50; tick++)); do
        kill -0 "$WRITER" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL "$WRITER" 2>/dev/null || true
    wait "$WRITER" 2>/dev/null || true
    WRITER=
}

# stop_on_signal SIGNAL STATUS: pass the signal on, see everybody out, leave with STATUS, or with that of a
# program which has saved its state. A job is queued again at the notice before its time limit, whatever it does then.
stop_on_signal() {
    local tick workers status=0
    if [[ $1 == USR1 && -n $CHILD ]] && ! ends_at_notice; then
        go_on_at_notice
        # Without a number it would be that of what the signal has interrupted.
        return 0
    fi
    # A scheduler may send more than one; only a person's second Ctrl-C, or a second SIGTERM, kills. The driver
    # of a fold may get each twice, by way of that of all folds, which kills it with its descendants.
    trap '' USR1
    if [[ $IS_PART == yes ]]; then trap '' INT TERM HUP; else trap 'kill_all' INT TERM HUP; fi
    if [[ -n $CHILD ]]; then
        log "SIG$1: stopping"
        DESCENDANTS=$(list_descendants "$CHILD")
        workers=$(list_workers)
        if is_saving_step; then
            ask_steps
        elif [[ -n $workers ]]; then
            # Not by way of torchrun, which kills workers that are not done half a minute later.
            # shellcheck disable=SC2086  # a list of numbers
            kill -s "$1" $workers 2>/dev/null || true
        else
            kill -s "$1" -- "-$CHILD" 2>/dev/null || true
        fi
        for ((tick = 0; tick < GRACE_S * 10; tick++)); do
            kill -0 -- "-$CHILD" 2>/dev/null || break
            sleep 0.1
            # A process that is just starting does not hear the first.
            ((tick % (ASK_AGAIN_S * 10) > 0)) || ! is_saving_step || ask_steps
        done
        kill_all
        wait "$CHILD" 2>/dev/null || status=$?
        await_writer
        status=$(own_status "$status" "$CHILD_LOG")
        ((status != STOPPED)) || report_stop
        log "stopped"
    fi
    # Before a time limit; but what has just failed by itself would fail again.
    [[ $1 != USR1 ]] || ((status > 0 && status <= 128)) || queue_again
    exit "$2"
}

# Say that training has saved its state, and leave with a status of its own.
report_stop() {
    log "stopped and saved; $GO_ON"
    queue_again
    exit "$STOPPED"
}

# Print the processes that torchrun has started, where it is torchrun that runs.
list_workers() {
    local pid parent
    [[ " ${COMMAND[*]-} " == *' torch.distributed.run '* ]] || return 0
    while read -r pid parent; do
        [[ $parent != "$CHILD" ]] || printf '%s\n' "$pid"
    done < <(list_processes)
}

# Kill the program and all its descendants, those in other process groups too (torchrun's workers).
kill_all() {
    local pid
    kill -KILL -- "-$CHILD" 2>/dev/null || true
    for pid in $DESCENDANTS; do
        kill -KILL "$pid" 2>/dev/null || true
    done
}

# Print the process ids of all descendants of a process.
list_descendants() {
    local -A children=()
    local pid parent queue=("$1")
    while read -r pid parent; do
        children[$parent]+=" $pid"
    done < <(list_processes)
    while ((${#queue[@]})); do
        pid=${queue[0]}
        # shellcheck disable=SC2206  # a list of numbers
        queue=("${queue[@]:1}" ${children[$pid]-})
        [[ $pid == "$1" ]] || printf '%s\n' "$pid"
    done
}

# Print `pid parent` of every process; /proc comes first because small Linux systems have no ps.
list_processes() {
    local file line fields
    if [[ ! -r /proc/self/stat ]]; then
        ps -A -o pid= -o ppid=
        return
    fi
    for file in /proc/[0-9]*/stat; do
        line=
        { read -r line <"$file"; } 2>/dev/null || continue
        # `pid (name) state parent ...`, where the name may hold blanks and brackets.
        read -r -a fields <<<"${line##*) }"
        printf '%s %s\n' "${line%% *}" "${fields[1]}"
    done
}
