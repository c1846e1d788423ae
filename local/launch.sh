# Submitting the stages as jobs of a Slurm cluster, each after the one before, and following them. Each job calls
# the driver again, for its stage alone. Sourced; needs stages.sh, marks.sh, folds.sh and the driver's settings.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2153  # settings come from and go to the other files

# Seconds between two looks at the jobs.
readonly POLL_S=${AUDIOTAG_POLL_S:-10}
# Options that are for the submission, or that a job gets in another way.
readonly NOT_FOR_JOBS=' recipe config launcher slurm-conf stage stop-stage nj num-nodes ngpu part restart'\
' force check wait follow dry-run help '

HEADS=          # by stage's name: how its scripts begin
SCRIPT_DIR=     # where scripts and logs of the jobs go
JOB_IDS=()
JOB_NAMES=()
BEFORE=         # the job that the next one waits for

# launch: submit the stages of this run, or print their scripts.
launch() {
    trap_signals
    if [[ ${OPT[dry-run]} == no ]]; then
        find_python
    else
        # Several GB are not installed for it.
        find_ready_python >&2 ||
            fail "--dry-run needs a Python with what setup.py asks for, and $VENV is not made or not up to date:" \
                "run a stage without --dry-run, which makes it, or name another one in AUDIOTAG_PYTHON"
    fi
    cd -- "$RECIPE_DIR" || exit
    read_keys
    SCRIPT_DIR=$PWD/$EXP_DIR/log/slurm
    [[ $SCRIPT_DIR != *[\"\\$'\n']* ]] ||
        fail "Slurm takes no quotes, backslashes and line breaks in the name of a log: $SCRIPT_DIR"
    read_heads
    if [[ ${OPT[dry-run]} == yes ]]; then
        submit_stages
        return
    fi
    command -v sbatch >/dev/null || fail "--launcher slurm needs Slurm's commands, and there is no sbatch here"
    check_start
    begin_submission
    forget_forced
    defer_signals
    submit_stages
    end_submission
    LOG_LABEL=slurm
    if ((${#JOB_IDS[@]} == 0)); then
        log "everything is done"
        show_results
        return
    fi
    log "logs: $SCRIPT_DIR; ./run.sh --follow shows the newest, scancel ${JOB_IDS[*]} ends the jobs"
    if [[ ${OPT[wait]} == yes ]]; then
        wait_for_jobs || confirm_forgotten
        log "all jobs have succeeded"
        show_results
    fi
}

# Read from slurm.yaml what the jobs ask for.
read_heads() {
    local file=${OPT[slurm-conf]} options=() stage names=()
    if [[ -z $file ]]; then
        file=$RECIPE_DIR/conf/slurm.yaml
        [[ -f $file ]] || file=$ROOT/conf/slurm.yaml
    elif [[ $file != /* && ! -f $file ]]; then
        file=$CALLER_DIR/$file
    fi
    [[ -z ${GIVEN[num-nodes]-} ]] || options+=(--num-nodes "${OPT[num-nodes]}")
    [[ -z ${GIVEN[ngpu]-} ]] || options+=(--ngpu "${OPT[ngpu]}")
    for ((stage = 0; stage <= LAST_STAGE; stage++)); do names+=("$(stage_name "$stage")"); done
    HEADS=$(PYTHONPATH=$MODULE_PATH "$PYTHON" -m audiotag.bin.slurm \
        --settings "$file" "${options[@]}" "${names[@]}") || exit
}

# What --force redoes is forgotten here, once: a job that is queued again must keep what it has made.
forget_forced() {
    # The lock of the submission is held meanwhile.
    local stage LOCK_BASE LOCK_FD=
    [[ ${OPT[force]} == yes ]] || return 0
    ! runs_all_folds || fail "--force with all folds: add --fold N, or take another --tag"
    make_folder "$DATA_DIR"
    take_lock "$DATA_DIR/.lock" "another run that prepares $PWD/$DATA_DIR"
    for ((stage = FIRST; stage <= LAST; stage++)); do
        # What other settings or a user have made is not redone, and stays.
        if [[ -z $(why_idle "$stage") ]] && leaves_mark "$stage"; then
            discard_output "$stage"
            rm -f -- "$(stage_mark "$stage")"
        fi
    done
    release_lock
}

# Submit a job for every stage that is to be done.
submit_stages() {
    local stage name idle ready=yes
    if runs_all_folds; then
        submit_folds
        return
    fi
    for ((stage = FIRST; stage <= LAST; stage++)); do
        name=$(stage_name "$stage")
        LOG_LABEL="stage $stage: $name"
        idle=$(why_idle "$stage")
        if [[ -n $idle ]]; then
            say "nothing to do: $idle"
            continue
        fi
        # Behind a stage that is redone everything is.
        if [[ $ready == yes ]] && ! is_forced "$stage" && stage_is_done "$stage"; then
            say "already done: $(absolute_path "$(dirname -- "$(stage_mark "$stage")")")"
            continue
        fi
        ready=no
        if [[ $stage == [12] ]] && ((NJ > 1)); then
            submit "stage$stage-$name" "$name" "1-$NJ" "$stage" "$stage"
        fi
        submit "stage$stage-$name" "$name" '' "$stage" "$stage"
    done
}

# The corpus, all folds as one array, and what puts them together, which finds all else done.
submit_folds() {
    ((FIRST > 0)) || LOG_LABEL=corpus submit stage0-corpus corpus '' 0 0
    ((LAST > 0)) || return 0
    LOG_LABEL=folds
    submit folds train "1-$RECIPE_FOLDS" "$((FIRST > 0 ? FIRST : 1))" "$LAST"
    ((FIRST > 7 || LAST < 7)) || submit table results '' "$((FIRST > 0 ? FIRST : 1))" "$LAST"
}

# submit NAME STAGE ARRAY FIRST LAST: submit, or print, a job for the stages FIRST to LAST which asks for what STAGE
# does; ARRAY is 1-N or empty. A job without an array is called alike, and comes after it.
submit() {
    local name=$1 script id after='' options=(--parsable)
    [[ -z $3 || $name == folds ]] || name+=-parts
    if [[ ${OPT[dry-run]} == yes ]]; then
        printf '# %s%s\n' "$name" "${BEFORE:+, once $BEFORE has succeeded}"
        print_script "$name" "${@:2}"
        printf '\n'
        BEFORE=$name
        return
    fi
    end_if_interrupted
    script=$SCRIPT_DIR/$name.sh
    print_script "$name" "${@:2}" >"$script"
    if [[ -n $BEFORE ]]; then
        options+=("--dependency=afterok:$BEFORE")
    elif (($4 <= 4 && ${#DATA_JOBS[@]})); then
        # Tasks of arrays share their work out without a lock. What those jobs make is found done then.
        options+=("--dependency=afterany$(printf ':%s' "${DATA_JOBS[@]}")")
        after=", after ${DATA_JOBS[*]}, which prepare the same data"
    fi
    # A Ctrl-C that ended sbatch would leave a job whose number nobody knows.
    if ! id=$(trap '' INT && sbatch "${options[@]}" -- "$script" 2>&1); then
        cancel_submission
        fail "sbatch refused $script: $id"
    fi
    id=$(tail -n 1 <<<"$id")
    BEFORE=${id%%;*}
    note_job "$name" "$BEFORE" "$4"
    log "job $BEFORE${3:+, an array of ${3#1-}}$after"
}

# print_script NAME STAGE ARRAY FIRST LAST: see `submit`.
print_script() {
    local log_name=$1-%j.log name command
    [[ -z $3 ]] || log_name=$1-%A_%a.log
    printf '#!/usr/bin/env bash\n'
    printf '#SBATCH --job-name=%s\n' "${RECIPE_NAME//[^A-Za-z0-9._-]/_}-${TAG//[^A-Za-z0-9._-]/_}-$1"
    printf '#SBATCH --output="%s"\n' "${SCRIPT_DIR//%/%%}/$log_name"
    # A job that is queued again would otherwise begin its log anew.
    printf '#SBATCH %s\n' --open-mode=append --kill-on-invalid-dep=yes ${3:+"--array=$3"}
    sed -n "s/^$2\t//p" <<<"$HEADS"
    printf 'export AUDIOTAG_SUBMITTED=yes\n'
    for name in AUDIOTAG_PYTHON $RECIPE_VARIABLES; do
        [[ $name != AUDIOTAG_PYTHON ]] || local AUDIOTAG_PYTHON=$PYTHON
        [[ -z ${!name+set} ]] || printf 'export %s\n' "$(quote_command "$name=${!name}")"
    done
    list_job_arguments "$1" "$4" "$5"
    command="exec bash $(quote_command "$RECIPE_DIR/run.sh" "${JOB_ARGUMENTS[@]}")"
    # As many processes as the job has processors, whatever it was given.
    # shellcheck disable=SC2016  # expanded by the job
    command+=' --nj "${SLURM_CPUS_PER_TASK:-1}"'
    # shellcheck disable=SC2016
    [[ $1 != stage*-parts ]] || command+=" --part \"\$SLURM_ARRAY_TASK_ID/${3#1-}\""
    printf '%s\n' "$command"
}

# list_job_arguments NAME FIRST LAST: set JOB_ARGUMENTS to the options of this run that a job needs.
list_job_arguments() {
    local name value
    JOB_ARGUMENTS=(--config "$CONFIG" --stage "$2" --stop-stage "$3")
    for name in "${OPTION_NAMES[@]}"; do
        [[ $NOT_FOR_JOBS != *" $name "* && $name != set ]] || continue
        if [[ -z ${ARGUMENT[$name]} ]]; then
            [[ ${OPT[$name]} == no ]] || JOB_ARGUMENTS+=("--$name")
        elif [[ -n ${GIVEN[$name]-} ]]; then
            JOB_ARGUMENTS+=("--$name" "${OPT[$name]}")
        fi
    done
    # Where Slurm hands out no GPUs, it is a number of CPU processes.
    if [[ -n ${GIVEN[ngpu]-} ]]; then JOB_ARGUMENTS+=(--ngpu "${OPT[ngpu]}"); fi
    for value in "${SETS[@]}"; do JOB_ARGUMENTS+=(--set "$value"); done
    # The table over all folds finds them trained.
    if (($2 <= 5 && $3 >= 5)) && is_forced 5 && [[ $1 != table ]]; then JOB_ARGUMENTS+=(--restart); fi
}

# A log line; in a dry run as a comment between the scripts.
say() {
    if [[ ${OPT[dry-run]} == yes ]]; then printf '# %s: %s\n\n' "$LOG_LABEL" "$*"; else log "$*"; fi
}
