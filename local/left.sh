# Which of the jobs that were submitted are still there, and what to say of them. Sourced; needs log.sh,
# launch.sh and jobs.sh.
# shellcheck shell=bash
# shellcheck disable=SC2153  # the numbers of a run's jobs come from the other files

# States of jobs that wait, run, or have processes that Slurm still ends.
readonly LEFT_STATES='PENDING|RUNNING|COMPLETING|CONFIGURING|SUSPENDED|REQUEUED|REQUEUE_HOLD'
# Seconds that Slurm is given to end those processes; it kills them after 30 where its administrator has not chosen.
readonly ENDING_S=${AUDIOTAG_ENDING_S:-60}

LEFT=   # jobs that are still there, `number state name` a line

# find_left ID...: set LEFT to those that wait or run, once Slurm has had the time to end the processes of those that
# were cancelled; fails where it does not answer.
find_left() {
    local end=$((SECONDS + ENDING_S)) said=no
    LEFT=
    (($#)) || return 0
    while LEFT=$(list_left "$@"); do
        is_only_ending && ((SECONDS < end)) || return 0
        [[ $said == yes ]] || log "waiting until Slurm has ended the processes of $(describe_left)"
        said=yes
        pause
    done
    return 1
}

# Whether there are jobs left, and all of them have only processes that Slurm still ends.
is_only_ending() {
    [[ -n $LEFT ]] && ! grep -qv '^[0-9]* COMPLETING ' <<<"$LEFT"
}

refuse_unknown() {
    fail "squeue does not tell whether jobs of an earlier command are left; try again"
}

# Print the jobs that are left, for a message.
describe_left() {
    sed -E 's/^([0-9]+) ([A-Z_]+) (.*)/\1 \2 (\3)/' <<<"$LEFT" | paste -s -d , - | sed 's/,/, /g'
}

numbers_left() {
    cut -d ' ' -f 1 <<<"$LEFT" | paste -s -d ' ' -
}

# advise_on_left TEXT...: print the text, or what there is to do about jobs that Slurm does not get ended.
advise_on_left() {
    if is_only_ending; then
        printf '%s %s %s\n' "Slurm has not ended their processes yet, which may still write: try again later. Where" \
            "it stays so, a node hangs (scontrol show job $(numbers_left)); they count as ended once an administrator" \
            "has set it down (scontrol update nodename=NODE state=down reason=hangs)"
    else
        printf '%s\n' "$*"
    fi
}

# Whether a job of this run waits or runs; yes also while Slurm does not answer.
any_job_is_left() {
    local left
    ((${#JOB_IDS[@]})) && command -v squeue >/dev/null || return 1
    left=$(list_left "${JOB_IDS[@]}") || return 0
    [[ -n $left ]]
}

# list_left ID...: print `number state name` of the jobs that are still there; fails where Slurm does not answer.
list_left() {
    local text
    text=$(list_states "$@") || return 1
    # An array ends when its last task does: COMPLETING sorts behind the other states of its tasks.
    sed -n -E "s/^([^|]*)\|[^|]*\|($LEFT_STATES)\|[^|]*\|/\1 \2 /p" <<<"$text" |
        LC_ALL=C sort -k 1,1n -k 2,2r | awk '!seen[$1]++'
}
