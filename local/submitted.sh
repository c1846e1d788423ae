# What has been submitted and may still be there: the jobs of this run, so that none is submitted twice, and those that
# prepare the data which runs share. Sourced; needs lock.sh, marks.sh, launch.sh and left.sh.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2153  # settings come from and go to the other files

# Whether this driver does its stages for a submission, which has seen to it that they come one after another.
readonly IS_SUBMITTED=${AUDIOTAG_SUBMITTED:-no}
export -n AUDIOTAG_SUBMITTED

DATA_JOBS=()    # jobs of other runs that prepare the data of this one
INTERRUPTED=0   # exit code for the signal that came while jobs were submitted

# Take the lock of submissions, after the jobs that an earlier command has left of this run.
begin_submission() {
    make_folder "$SCRIPT_DIR"
    make_folder "$DATA_DIR/log"
    take_lock "$DATA_DIR/log/.submission.lock" "another submission"
    LOG_LABEL=slurm
    read_jobs
    find_left "${JOB_IDS[@]}" || refuse_unknown
    while [[ -n $LEFT ]]; do
        # What these are to forget or to put aside, the earlier command may just have made.
        [[ ${OPT[wait]} == yes && ${OPT[force]} == no && ${OPT[restart]} == no ]] ||
            fail "jobs of this run are still there: $(describe_left); $(advise_on_left "./run.sh --follow shows" \
                "their log, --wait (without --force and --restart) waits for them, scancel $(numbers_left) ends them")"
        release_lock
        log "waiting for the jobs of an earlier command: $(numbers_left)"
        # What they have not done is submitted again.
        wait_for_jobs || true
        take_lock "$DATA_DIR/log/.submission.lock" "another submission"
        # The lists of a corpus that has come change the keys.
        read_keys
        LOG_LABEL=slurm
        read_jobs
        find_left "${JOB_IDS[@]}" || refuse_unknown
    done
    read_data_jobs
    JOB_IDS=()
    JOB_NAMES=()
    rm -f -- "$SCRIPT_DIR/jobs"
}

# Let signals wait until the number of the job that is being submitted is known.
defer_signals() {
    trap 'INTERRUPTED=130' INT
    trap 'INTERRUPTED=143' TERM
    trap 'INTERRUPTED=129' HUP
}

end_submission() {
    end_if_interrupted
    trap_signals
    release_lock
}

# Half a chain is of no use.
end_if_interrupted() {
    ((INTERRUPTED)) || return 0
    log "interrupted; cancelled: ${JOB_IDS[*]:-nothing was submitted}"
    cancel_submission
    exit "$INTERRUPTED"
}

cancel_submission() {
    ((${#JOB_IDS[@]} == 0)) || scancel "${JOB_IDS[@]}" || true
}

# note_job NAME ID FIRST: keep the number of a job that begins with stage FIRST, before the next one is submitted.
note_job() {
    JOB_NAMES+=("$1")
    JOB_IDS+=("$2")
    printf '%s %s\n' "$1" "$2" >>"$SCRIPT_DIR/jobs"
    # The tasks of folds prepare their data under a lock.
    (($3 > 4)) || [[ $1 == folds ]] || printf '%s\n' "$2" >>"$DATA_DIR/log/slurm-jobs"
}

# Set JOB_NAMES and JOB_IDS to what the latest submission of this run has noted.
read_jobs() {
    local name id
    JOB_NAMES=()
    JOB_IDS=()
    [[ -f $SCRIPT_DIR/jobs ]] || return 0
    while read -r name id; do
        JOB_NAMES+=("$name")
        JOB_IDS+=("$id")
    done <"$SCRIPT_DIR/jobs"
}

# Set JOB_NAMES and JOB_IDS to what was noted for this run, and, of folds, for all of them or for each by itself.
read_noted_jobs() {
    local folder names=() ids=() folders=("$PWD/$EXP_DIR")
    [[ -z $FOLD ]] || folders+=("$PWD/${EXP_DIR%/*}")
    ! runs_all_folds || folders+=("$PWD/$EXP_DIR"/fold*)
    for folder in "${folders[@]}"; do
        SCRIPT_DIR=$folder/log/slurm read_jobs
        names+=("${JOB_NAMES[@]}")
        ids+=("${JOB_IDS[@]}")
    done
    JOB_NAMES=("${names[@]}")
    JOB_IDS=("${ids[@]}")
}

# Set DATA_JOBS, and forget those that have ended.
read_data_jobs() {
    local noted
    mapfile -t noted < <(list_data_jobs)
    LEFT=
    # New jobs may be told to come after one that ends: no need to wait for that here.
    ((${#noted[@]} == 0)) || LEFT=$(list_left "${noted[@]}") || refuse_unknown
    read -r -a DATA_JOBS < <(numbers_left) || true
    [[ ${OPT[force]} == no || -z $LEFT ]] || ((FIRST > 4)) ||
        fail "--force while jobs of another run prepare the same data: $(describe_left); wait until they have ended"
    # Those of single folds are noted there.
    runs_all_folds || printf '%s\n' "${DATA_JOBS[@]}" | sed '/^$/d' >"$DATA_DIR/log/slurm-jobs"
}

# Print the numbers of all jobs that were submitted to prepare the data of this run, whether or not they have ended.
list_data_jobs() {
    local files=("$DATA_DIR/log/slurm-jobs")
    ! runs_all_folds || files+=("$DATA_DIR"/fold*/log/slurm-jobs)
    cat -- "${files[@]}" 2>/dev/null || true
}

# Leave with a message where jobs that were submitted are about to do what this run would do here: tasks of an array
# work without a lock, and a job that finds its training begun by another would fail.
refuse_beside_jobs() {
    local first index noted own=${SLURM_ARRAY_JOB_ID:-${SLURM_JOB_ID:-none}} LOG_LABEL=slurm
    [[ $IS_SUBMITTED == no && $IS_PART == no ]] || return 0
    mapfile -t noted < <(list_data_jobs)
    read_noted_jobs
    # A job of the chain by a script of an older version, which does not say so.
    [[ " ${noted[*]} ${JOB_IDS[*]} " != *" $own "* ]] || return 0
    # To look at what is done takes a while, and most runs have no jobs.
    ((${#noted[@]} + ${#JOB_IDS[@]})) || return 0
    first=$(first_to_do)
    ((${first:-6} <= 5)) || return 0
    ((first <= 4)) || noted=()
    for index in "${!JOB_IDS[@]}"; do
        case ${JOB_NAMES[index]} in
            folds) noted+=("${JOB_IDS[index]}") ;;
            stage5-*) ((LAST < 5)) || noted+=("${JOB_IDS[index]}") ;;
        esac
    done
    ((${#noted[@]})) || return 0
    if ! { command -v squeue >/dev/null && find_left "${noted[@]}"; }; then
        log "jobs that do the same were submitted, and Slurm does not tell whether they have ended: going on"
    elif [[ -n $LEFT ]]; then
        fail "jobs that do the same are still there: $(describe_left); $(advise_on_left "wait until they have ended," \
            "or end them: scancel $(numbers_left)")"
    fi
}

# Print the first stage of this run that is to be done, or nothing.
first_to_do() {
    local stage
    for ((stage = FIRST; stage <= LAST; stage++)); do
        # What folds have done lies in folders of their own.
        if runs_all_folds || { [[ -z $(why_idle "$stage") ]] && leaves_mark "$stage" &&
            { is_forced "$stage" || ! stage_is_done "$stage"; }; }; then
            printf '%s\n' "$stage"
            return
        fi
    done
}
