# Queueing a Slurm job again: when what runs should end for it, and how often. Sourced; needs log.sh, lock.sh,
# output.sh, allocation.sh and the driver's settings.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2153  # settings come from and go to the other files

# Runs of a job that get no further, one after the other, until it is not queued again: those that ended before a time
# limit, and those whose processes Slurm has not started, or has ended.
readonly FUTILE_RUNS=3
readonly MOST_TRIES=10

NOTICED=no      # whether the notice before the time limit has come, and what ran then went on
GOES_ON=no      # the same of the signal that has come last
STAGE_START=0   # when the present stage began

# Whether what runs should end at the notice before the time limit, so that the job is queued again: what goes on from
# there, and what would have far more time in its next run than it had in this one. All else may still be done in time.
ends_at_notice() {
    is_batch_script || return 0
    [[ ! $LOG_LABEL =~ ^stage\ [0678]: ]] || ((2 * (SECONDS - STAGE_START) < SECONDS))
}

# Let the program that runs use the time that is left.
go_on_at_notice() {
    [[ $NOTICED == yes ]] || log "SIGUSR1: this stage saves nothing to go on from, and uses the time that is left"
    NOTICED=yes
    GOES_ON=yes
}

# After the notice no other stage begins in this run of the job.
leave_after_notice() {
    [[ $NOTICED == yes ]] || return 0
    log "the time ends soon: not begun"
    queue_again
    exit 138
}

# queue_again [RUNS]: queue this job again, unless it was cancelled, or so many runs in a row got no further; the next
# one of its runs goes on from here.
queue_again() {
    local job text state
    is_batch_script || return 0
    job=$(own_job)
    text=$(scontrol show job -o "$job" 2>/dev/null || true)
    state=$(sed -n 's/.* JobState=\([A-Z_]*\).*/\1/p' <<<"$text")
    # As long as this script runs, a job that was cancelled counts as completing; so does one whose time is over.
    if [[ $state == CANCELLED || $state == COMPLETING && $text != *' Reason=TimeLimit '* ]]; then
        log "job $job was cancelled, or Slurm itself queues it again: this script does not"
        return 0
    fi
    count_run "$job" "${1:-$FUTILE_RUNS}" || return 0
    # Which ends this script too.
    trap '' TERM INT HUP USR1
    if scontrol requeue "$job" 2>/dev/null; then
        log "job $job is queued again"
    else
        log "job $job is not queued again by this script (state ${state:-unknown}): it has --no-requeue," \
            "or Slurm does so itself"
    fi
}

# count_run JOB RUNS: whether the job may be queued again; where it gets nowhere it would be for ever.
count_run() {
    local folder=$RECIPE_DIR/$EXP_DIR/log/slurm runs=0 most=0 before='' bytes made
    { read -r runs most before <"$folder/runs-$1"; } 2>/dev/null || true
    bytes=$(measure_data)
    made=$(list_results | checksum)
    # Unfinished files come and go, so that data must be more than there has ever been.
    if ((bytes > most)) || [[ $made != "$before" ]]; then runs=0; fi
    if ((runs >= $2)); then
        log "job $1 is not queued again: its last $runs runs got no further than the one before them (the same" \
            "checkpoints and results, no more data); give it more time, or see above what ended them"
        return 1
    fi
    if ! { mkdir -p -- "$folder" &&
        printf '%s %s %s\n' "$((runs + 1))" "$((bytes > most ? bytes : most))" "$made" >"$folder/runs-$1"; } 2>/dev/null
    then
        log "job $1 is not queued again: cannot write $folder/runs-$1"
        return 1
    fi
}

# Print the bytes of the prepared data, without logs and copies of audio; the list of those counts.
measure_data() {
    { find "$RECIPE_DIR/$DATA_DIR" \( -name log -o -path '*/audio/*' -type d \) -prune -o -type f -printf '%s\n' \
        2>/dev/null || true; } | awk '{ sum += $1 } END { printf "%.0f\n", sum }'
}

# Print the checkpoints of the run, or of its folds, and the marks of stages, which grow when those are finished.
list_results() {
    find "$RECIPE_DIR/$EXP_DIR" -maxdepth 2 \( -name '*.pt' -o -name '.done*' \) -printf '%P %s\n' 2>/dev/null |
        LC_ALL=C sort || true
}

# queue_interrupted LOG: queue this job again when Slurm has not started the processes on its nodes, or has killed
# them, as when it clears up a node that was lost and has just come back.
queue_interrupted() {
    local text
    is_batch_script || return 0
    text=$(this_run "$1")
    grep -qE '^srun: (error: Unable to create step|error: Node failure|Force Terminated)' <<<"$text" || return 0
    ! grep -q 'not to be started again: ' <<<"$text" || return 0
    log "Slurm has ended the processes, or not started them within ${AUDIOTAG_RENDEZVOUS_S:-300} s"
    # Should it be a lasting state, a person must look at it.
    queue_again "$MOST_TRIES"
}

# Wait for the lock that processes of an earlier run of this job, on a node that was lost, may still have, but not for
# ever; fails where somebody else has it.
await_leftovers() {
    local holder tick wait_s=${AUDIOTAG_RENDEZVOUS_S:-300}
    holder=$(lock_holder)
    is_queued_again && [[ -z $holder || $holder == *", job $SLURM_JOB_ID,"* ]] || return 1
    log "waiting for what is left of this job's earlier run$holder"
    for ((tick = 0; tick < ${wait_s%.*}; tick++)); do
        sleep 1
        ! try_lock || return 0
    done
    log "it is still there after $wait_s s"
    queue_again "$MOST_TRIES"
    return 1
}
