# Following the jobs that launch.sh has submitted: until they end, or their log. Sourced; needs launch.sh.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2153  # settings come from the other files

# States from which a job does not come back, unless it is queued again at once.
readonly BAD_STATES='^(BOOT_FAIL|CANCELLED|DEADLINE|FAILED|NODE_FAIL|OUT_OF_MEMORY|PREEMPTED|TIMEOUT)$'

TAIL=   # process that shows a log

# Wait until all jobs have ended; when one fails, show the end of its log and leave with its exit code. Fails where
# Slurm does not know any more how the last one, which came after all others, has ended.
wait_for_jobs() {
    local index ended=0 now='' text
    local -A bad_before=() shown=()
    trap 'log "not waiting any longer; the jobs go on: ${JOB_IDS[*]}; ./run.sh with --launcher slurm --wait waits again"
        exit 130' INT TERM HUP
    while ((ended < ${#JOB_IDS[@]})); do
        ended=0
        text=$(list_states "${JOB_IDS[@]}") || { pause; continue; }
        for index in "${!JOB_IDS[@]}"; do
            LOG_LABEL=${JOB_NAMES[index]}
            now=$(state_of "${JOB_IDS[index]}" "$text")
            [[ ${shown[$index]-} == "$now" ]] || log "job ${JOB_IDS[index]}: $now"
            shown[$index]=$now
            case ${now%% *} in
                COMPLETED | FORGOTTEN) ended=$((ended + 1)) ;;
                PENDING | RUNNING | COMPLETING) bad_before[$index]= ;;
                *)
                    # A lost or preempted job is queued again a moment later.
                    [[ -z ${bad_before[$index]-} ]] || report_job "$index" "$text"
                    bad_before[$index]=yes
                    ;;
            esac
        done
        ((ended == ${#JOB_IDS[@]})) || pause
    done
    trap_signals
    LOG_LABEL=slurm
    [[ $now == COMPLETED ]]
}

# Slurm forgets a job some minutes after its end. Whether the jobs have succeeded is then read from what they leave.
confirm_forgotten() {
    local fold
    if ! runs_all_folds || ((LAST == 0)); then
        read_keys
        are_stages_done "$FIRST" || report_forgotten
        return
    fi
    for ((fold = 1; fold <= RECIPE_FOLDS; fold++)); do
        is_fold_done "$fold" || report_forgotten
    done
    ((FIRST > 7 || LAST < 7)) || [[ $EXP_DIR/RESULTS.md -nt $SCRIPT_DIR/jobs ]] || report_forgotten
}

is_fold_done() {
    local FOLD=$1 DATA_DIR=$DATA_DIR/fold$1 EXP_DIR=$EXP_DIR/fold$1
    make_overrides
    read_keys
    are_stages_done "$((FIRST > 0 ? FIRST : 1))"
}

# are_stages_done FIRST: whether all stages from there on that have something to do are done.
are_stages_done() {
    local stage
    for ((stage = $1; stage <= LAST; stage++)); do
        [[ -z $(why_idle "$stage") ]] || continue
        # The mark of a training that was put aside is there until the new one begins.
        ((stage != 5)) || ! is_forced 5 || [[ $(stage_mark 5) -nt $SCRIPT_DIR/jobs ]] || return 1
        # Of a corpus that is only looked at, the jobs behind tell that it was found well.
        leaves_mark "$stage" || ((LAST == 0)) || continue
        stage_is_done "$stage" || return 1
    done
}

report_forgotten() {
    log "error: Slurm has forgotten how job ${JOB_IDS[-1]} ended, and what it was to make is not there or not whole:" \
        "see the logs in $SCRIPT_DIR; the same command submits what is left to do" >&2
    exit 1
}

# Wait a little, in a way that a signal can end.
pause() {
    sleep "$POLL_S" &
    wait $!
}

# list_states ID...: print `array|job|state|node|name` of all tasks of the jobs; fails where Slurm does not answer.
list_states() {
    local text list
    list=$(printf '%s\n' "$@" | paste -s -d , -)
    if ! text=$(squeue -h -r -a -t all -j "$list" -o '%F|%i|%T|%B|%j' 2>&1); then
        # None of them is remembered any more.
        [[ $text == *'Invalid job id'* ]] || return 1
        return
    fi
    printf '%s\n' "$text"
}

# state_of JOB TEXT: print the state of a job, or of an array as a whole, with its nodes.
state_of() {
    local array _ state node bad='' total=0 done=0 running=0 ending=0 nodes=''
    while IFS='|' read -r array _ state node _; do
        [[ $array == "$1" ]] || continue
        total=$((total + 1))
        if [[ $state == COMPLETED ]]; then done=$((done + 1)); fi
        if [[ $state == RUNNING ]]; then running=$((running + 1)) nodes=" on $node"; fi
        if [[ $state == COMPLETING ]]; then ending=$((ending + 1)) nodes=" on $node"; fi
        if [[ $state =~ $BAD_STATES && $bad != FAILED ]]; then bad=$state; fi
    done <<<"$2"
    if ((total == 0)); then
        # Slurm keeps ended jobs for some minutes only.
        printf 'FORGOTTEN by Slurm\n'
    elif [[ -n $bad ]]; then
        printf '%s\n' "$bad"
    elif ((done == total)); then
        printf 'COMPLETED\n'
    elif ((total > 1)); then
        printf '%s %s of %s done\n' "$( ((running || done)) && printf RUNNING || printf PENDING)" "$done" "$total"
    elif ((ending)); then
        printf 'COMPLETING%s\n' "$nodes"
    else
        printf '%s%s\n' "$( ((running)) && printf RUNNING || printf PENDING)" "$nodes"
    fi
}

# report_job INDEX TEXT: say which job failed, where, and how its log ends; leave with its exit code.
report_job() {
    local task='' state='' node='' a t s n _ details code log_file
    # Jobs behind the one that failed are cancelled with it, and other tasks of its array may have gone well.
    while IFS='|' read -r a t s n _; do
        [[ $a == "${JOB_IDS[$1]}" && $s =~ $BAD_STATES ]] && [[ -z $task || $s == FAILED ]] || continue
        task=$t state=$s node=$n
    done <<<"$2"
    details=$(scontrol show job -o "$task" 2>/dev/null | head -n 1 || true)
    code=$(sed -n 's/.* ExitCode=\([0-9]*\):.*/\1/p' <<<"$details")
    log_file=$SCRIPT_DIR/${JOB_NAMES[$1]}-$task.log
    {
        log "job $task $state on node ${node:-unknown}${code:+, exit code $code}"
        if [[ -f $log_file ]]; then
            printf '  end of its log:\n'
            tail -n 20 -- "$log_file" | sed 's/^/    | /'
            printf '  whole log: %s\n' "$log_file"
        fi
        printf '  the same command submits what is left to do\n'
    } >&2
    exit "$((code > 0 ? code : 1))"
}

# --follow: show the newest log of the run as it grows, going on to the next one: those of its jobs until none of them
# is left, otherwise until its user ends it.
follow_logs() {
    local current='' newest of_jobs=no
    cd -- "$RECIPE_DIR" || exit
    SCRIPT_DIR=$PWD/$EXP_DIR/log/slurm
    read_jobs
    trap 'stop_tail; exit 130' INT TERM HUP
    ! any_job_is_left || of_jobs=yes
    newest=$(newest_log "$of_jobs")
    [[ -n $newest || $of_jobs == yes ]] || fail "nothing to follow: there is no log in $PWD/$EXP_DIR/log"
    LOG_LABEL=follow
    while :; do
        newest=$(newest_log "$of_jobs")
        if [[ -n $newest && $newest != "$current" ]]; then
            stop_tail
            current=$newest
            log "$current"
            tail -n 20 -F -- "$current" 2>/dev/null &
            TAIL=$!
        fi
        pause
        if [[ $of_jobs == yes || ${current%/*} == "$SCRIPT_DIR" ]] && ! any_job_is_left; then
            break
        fi
    done
    stop_tail
}

stop_tail() {
    [[ -z $TAIL ]] || kill "$TAIL" 2>/dev/null || true
}

# newest_log ONLY_JOBS: print the log that was written to last: of a job, or else of a stage or fold that ran here.
newest_log() {
    local path newest='' paths=("$SCRIPT_DIR"/*.log)
    # A job's stage writes a second log, as it does without a job.
    [[ $1 == yes ]] || paths+=("$PWD/$EXP_DIR/log"/{stage,fold}*.log "$PWD/$DATA_DIR/log"/stage*.log)
    for path in "${paths[@]}"; do
        [[ ! -f $path || -n $newest && ! $path -nt $newest ]] || newest=$path
    done
    printf '%s\n' "$newest"
}
