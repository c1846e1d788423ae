# Following the jobs that launch.sh has submitted: until they end, or their log. Sourced; needs launch.sh.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2153  # settings come from the other files

# States from which a job does not come back, unless it is queued again at once.
readonly BAD_STATES='^(BOOT_FAIL|CANCELLED|DEADLINE|FAILED|NODE_FAIL|OUT_OF_MEMORY|PREEMPTED|TIMEOUT)$'

TAIL=   # process that shows a log

# Wait until all jobs have succeeded; when one fails, show the end of its log and leave with its exit code.
wait_for_jobs() {
    local index ended=0 now text
    local -A bad_before=() shown=()
    trap 'log "not waiting any longer; the jobs go on: ${JOB_IDS[*]}"; exit 130' INT TERM HUP
    while ((ended < ${#JOB_IDS[@]})); do
        ended=0
        text=$(list_states) || { pause; continue; }
        for index in "${!JOB_IDS[@]}"; do
            LOG_LABEL=${JOB_NAMES[index]}
            now=$(state_of "${JOB_IDS[index]}" "$text")
            [[ ${shown[$index]-} == "$now" ]] || log "job ${JOB_IDS[index]}: $now"
            shown[$index]=$now
            case ${now%% *} in
                COMPLETED | FORGOTTEN) ended=$((ended + 1)) ;;
                PENDING | RUNNING) bad_before[$index]= ;;
                *)
                    # A lost or preempted job is queued again a moment later.
                    [[ -z ${bad_before[$index]-} ]] || report_job "$index" "$text"
                    bad_before[$index]=yes
                    ;;
            esac
        done
        ((ended == ${#JOB_IDS[@]})) || pause
    done
    trap - INT TERM HUP
    LOG_LABEL=slurm
    log "all jobs have succeeded"
}

# Wait a little, in a way that a signal can end.
pause() {
    sleep "$POLL_S" &
    wait $!
}

# Print `array|job|state|node|exit code` of all tasks of the jobs; fails where Slurm does not answer.
list_states() {
    local text list
    list=$(printf '%s\n' "${JOB_IDS[@]}" | paste -s -d , -)
    if ! text=$(squeue -h -r -a -t all -j "$list" -o '%F|%i|%T|%B' 2>&1); then
        # None of them is remembered any more.
        [[ $text == *'Invalid job id'* ]] || return 1
        return
    fi
    printf '%s\n' "$text"
}

# state_of JOB TEXT: print the state of a job, or of an array as a whole, with its nodes.
state_of() {
    local array _ state node bad='' total=0 done=0 running=0 nodes=''
    while IFS='|' read -r array _ state node; do
        [[ $array == "$1" ]] || continue
        total=$((total + 1))
        if [[ $state == COMPLETED ]]; then done=$((done + 1)); fi
        if [[ $state == RUNNING ]]; then running=$((running + 1)) nodes=" on $node"; fi
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
    else
        printf '%s%s\n' "$( ((running)) && printf RUNNING || printf PENDING)" "$nodes"
    fi
}

# report_job INDEX TEXT: say which job failed, where, and how its log ends; leave with its exit code.
report_job() {
    local task='' state='' node='' a t s n details code log_file
    # Jobs behind the one that failed are cancelled with it, and other tasks of its array may have gone well.
    while IFS='|' read -r a t s n; do
        [[ $a == "${JOB_IDS[$1]}" && $s =~ $BAD_STATES ]] && [[ -z $task || $s == FAILED ]] || continue
        task=$t state=$s node=$n
    done <<<"$2"
    details=$(scontrol show job -o "$task" 2>/dev/null | head -n 1 || true)
    code=$(sed -n 's/.* ExitCode=\([0-9]*\):.*/\1/p' <<<"$details")
    log_file=$(compgen -G "$SCRIPT_DIR/${JOB_NAMES[$1]}-$task.log" || true)
    {
        log "job $task $state on node ${node:-unknown}${code:+, exit code $code}"
        if [[ -n $log_file ]]; then
            printf '  end of its log:\n'
            tail -n 20 -- "$log_file" | sed 's/^/    | /'
            printf '  whole log: %s\n' "$log_file"
        fi
        printf '  the same command submits what is left to do\n'
    } >&2
    exit "$((code > 0 ? code : 1))"
}

# --follow: show the newest log of the run as it grows, going on to that of the next job, until no job is left.
follow_logs() {
    local folder=$RECIPE_DIR/$EXP_DIR/log current='' newest
    SCRIPT_DIR=$folder/slurm
    [[ ! -f $SCRIPT_DIR/jobs ]] || mapfile -t JOB_IDS <"$SCRIPT_DIR/jobs"
    trap 'stop_tail; exit 130' INT TERM HUP
    newest=$(newest_log "$folder")
    [[ -n $newest ]] || ((${#JOB_IDS[@]})) || fail "nothing to follow: there is no log in $folder"
    while :; do
        newest=$(newest_log "$folder")
        if [[ -n $newest && $newest != "$current" ]]; then
            stop_tail
            current=$newest
            LOG_LABEL=follow
            log "$current"
            tail -n 20 -F -- "$current" 2>/dev/null &
            TAIL=$!
        fi
        pause
        # Of a run without jobs only its user knows the end.
        if ((${#JOB_IDS[@]})) && ! any_job_is_left; then
            break
        fi
    done
    stop_tail
}

stop_tail() {
    [[ -z $TAIL ]] || kill "$TAIL" 2>/dev/null || true
}

# Print the log that was written to last: of a job, or of a stage that ran here.
newest_log() {
    local path newest=''
    while IFS= read -r path; do
        [[ -n $newest && ! $path -nt $newest ]] || newest=$path
    done < <(compgen -G "$1/slurm/*.log" || compgen -G "$1/stage*.log")
    printf '%s\n' "$newest"
}

# Whether a job runs or waits; yes also while Slurm does not answer.
any_job_is_left() {
    local text
    text=$(list_states) || return 0
    grep -qE '\|(PENDING|RUNNING|COMPLETING|CONFIGURING|SUSPENDED|REQUEUED|REQUEUE_HOLD)\|' <<<"$text"
}
