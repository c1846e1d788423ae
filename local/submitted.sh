# What has been submitted and may still be there: the jobs of this run, so that none is submitted twice, and those that
# prepare the data which runs share. Sourced; needs lock.sh, launch.sh and jobs.sh.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2153  # settings come from and go to the other files

DATA_JOBS=()    # jobs of other runs that prepare the data of this one
INTERRUPTED=0   # exit code for the signal that came while jobs were submitted

# Take the lock of submissions, after the jobs that an earlier command has left of this run.
begin_submission() {
    local left
    make_folder "$SCRIPT_DIR"
    make_folder "$DATA_DIR/log"
    take_lock "$DATA_DIR/log/.submission.lock" "another submission"
    read_jobs
    left=$(ask_for_jobs "${JOB_IDS[@]}") || exit
    while [[ -n $left ]]; do
        LOG_LABEL=slurm
        # What these are to forget or to put aside, the earlier command may just have made.
        [[ ${OPT[wait]} == yes && ${OPT[force]} == no && ${OPT[restart]} == no ]] ||
            fail "jobs of this run are still there: ${left//$'\n'/ }; ./run.sh --follow shows their log, --wait" \
                "(without --force and --restart) waits for them, scancel ${left//$'\n'/ } ends them"
        release_lock
        log "waiting for the jobs of an earlier command: ${left//$'\n'/ }"
        # What they have not done is submitted again.
        wait_for_jobs || true
        take_lock "$DATA_DIR/log/.submission.lock" "another submission"
        # The lists of a corpus that has come change the keys.
        read_keys
        read_jobs
        left=$(ask_for_jobs "${JOB_IDS[@]}") || exit
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

# Set DATA_JOBS, and forget those that have ended.
read_data_jobs() {
    local files=("$DATA_DIR/log/slurm-jobs") noted=() left
    ! runs_all_folds || files+=("$DATA_DIR"/fold*/log/slurm-jobs)
    mapfile -t noted < <(cat -- "${files[@]}" 2>/dev/null || true)
    left=$(ask_for_jobs "${noted[@]}") || exit
    DATA_JOBS=()
    [[ -z $left ]] || mapfile -t DATA_JOBS <<<"$left"
    [[ ${OPT[force]} == no || -z $left ]] || ((FIRST > 4)) ||
        fail "--force while jobs of another run prepare the same data: ${DATA_JOBS[*]}; wait until they have ended"
    # Those of single folds are noted there.
    runs_all_folds || sed '/^$/d' <<<"$left" >"${files[0]}"
}

# ask_for_jobs ID...: print those that wait or run; leaves where Slurm does not say.
ask_for_jobs() {
    (($#)) || return 0
    list_left "$@" || fail "squeue does not tell whether jobs of an earlier command are left; try again"
}
