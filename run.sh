#!/usr/bin/env bash
# The staged driver of all recipes: from nothing to a table of results. `./run.sh` runs the embedded recipe
# `mini`, `./run.sh --recipe NAME` another one, `./run.sh --help` prints all options.

# Before anything else: a scheduler's notice that comes this early is kept, also for the calls below, until the driver
# can answer it.
trap 'export AUDIOTAG_NOTICED=yes' USR1
set -euo pipefail

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
    printf 'run.sh: bash 4.4 or newer is needed, this is %s\n' "$BASH_VERSION" >&2
    exit 2
fi

ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
# `sbatch run.sh` runs a copy that lies elsewhere; it was called in this folder, or Slurm knows of what it is one.
[[ -f $ROOT/local/log.sh || -z ${SLURM_SUBMIT_DIR:-} ]] || ROOT=$SLURM_SUBMIT_DIR
if [[ ! -f $ROOT/local/log.sh && -n ${SLURM_JOB_ID:-} ]]; then
    ROOT=$(scontrol show job -o "$SLURM_JOB_ID" | sed -n -E 's/.* Command=(.*)\/run\.sh( .*)? WorkDir=.*/\1/p')
fi
readonly ROOT
# shellcheck source=local/log.sh
source "$ROOT/local/log.sh"
# shellcheck source=local/lock.sh
source "$ROOT/local/lock.sh"
# shellcheck source=local/options.sh
source "$ROOT/local/options.sh"
# shellcheck source=local/process.sh
source "$ROOT/local/process.sh"
# shellcheck source=local/output.sh
source "$ROOT/local/output.sh"
# shellcheck source=local/environment.sh
source "$ROOT/local/environment.sh"
# shellcheck source=local/allocation.sh
source "$ROOT/local/allocation.sh"
# shellcheck source=local/requeue.sh
source "$ROOT/local/requeue.sh"
# shellcheck source=local/stages.sh
source "$ROOT/local/stages.sh"
# shellcheck source=local/marks.sh
source "$ROOT/local/marks.sh"
# shellcheck source=local/settings.sh
source "$ROOT/local/settings.sh"
# shellcheck source=local/folds.sh
source "$ROOT/local/folds.sh"
# shellcheck source=local/launch.sh
source "$ROOT/local/launch.sh"
# shellcheck source=local/submitted.sh
source "$ROOT/local/submitted.sh"
# shellcheck source=local/jobs.sh
source "$ROOT/local/jobs.sh"
# shellcheck source=local/left.sh
source "$ROOT/local/left.sh"

main() {
    parse_options "$@"
    if [[ -z ${AUDIOTAG_RECIPE_DIR:-} ]]; then
        hand_over_to_recipe "$@"
    fi
    read_recipe
    if [[ ${OPT[help]} == yes ]]; then
        print_help
        return
    fi
    check_options
    make_settings
    if [[ ${OPT[follow]} == yes ]]; then
        follow_logs
        return
    elif [[ ${OPT[launcher]} == slurm ]]; then
        launch
        return
    elif [[ ${OPT[dry-run]} == yes ]]; then
        if runs_all_folds; then print_folds "$@"; else print_commands "$FIRST" "$LAST"; fi
        return
    fi
    check_port
    describe_job
    trap_signals
    # A stage's output goes through a pipe; progress bars go past it to the terminal.
    if [[ -t 2 ]]; then
        export AUDIOTAG_TERMINAL=/dev/tty
    fi
    # Threads that wait by spinning make CPU training several times slower once a core is shared.
    export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}
    # shellcheck disable=SC2119  # no extras
    find_python
    cd -- "$RECIPE_DIR"
    read_keys
    [[ ${OPT[check]} == no ]] || look_first
    refuse_beside_jobs
    if runs_all_folds; then
        run_folds "$@"
        return
    fi
    run_stages "$FIRST" "$LAST"
    LOG_LABEL=run
    show_results
}

# run_stages FIRST LAST: one stage after the other, each with the lock that it needs.
run_stages() {
    local stage folder
    for ((stage = $1; stage <= $2; stage++)); do
        # Stage 0 is quick, and what is said of the corpus comes first.
        if ((stage == (FIRST > 0 ? FIRST : 1))); then
            check_start
        fi
        LOG_LABEL="stage $stage: $(stage_name "$stage")"
        if [[ -n ${OPT[part]} ]]; then
            run_part "$stage"
        elif ((stage <= 4)); then
            # All runs of a recipe share its data, and all folds its corpus.
            folder=$DATA_DIR
            ((stage > 0)) || folder=data
            make_folder "$folder"
            take_lock "$folder/.lock" "another run that prepares $PWD/$folder"
            run_stage "$stage"
            release_lock
        elif ((stage == 5 && NODE == 0)); then
            make_folder "$EXP_DIR"
            LOCK_BASE=$EXP_DIR/.lock
            try_lock || await_leftovers ||
                fail "another run is training in $PWD/$EXP_DIR$(lock_holder): wait for it, or take another --tag"
            # An update of a large model, and its checkpoint on a slow disk, take their time.
            GRACE_S=300
            run_stage "$stage"
            release_lock
        else
            run_stage "$stage"
        fi
    done
}

# A recipe is a folder of egs/ whose run.sh sets a few variables and calls this file again.
hand_over_to_recipe() {
    local recipe=${OPT[recipe]} file names
    file=$ROOT/egs/$recipe/run.sh
    if [[ $recipe == */* || ! -f $file ]]; then
        names=$(cd -- "$ROOT/egs" && printf '%s\n' */run.sh | sed 's|/run.sh$||' | paste -s -d ' ' -)
        fail "unknown recipe '$recipe'; there are: $names"
    fi
    exec "$BASH" "$file" "$@"
}

# print_commands FIRST LAST: print what the stages would run.
print_commands() {
    local stage
    guess_python
    for ((stage = $1; stage <= $2; stage++)); do
        build_command "$stage"
        printf '# stage %s: %s\n' "$stage" "$(stage_name "$stage")"
        if [[ $stage == [35] && -n $RECIPE_NOISE ]]; then
            printf '# (with --set augment.noise.dir=... from db.sh when the config mixes noise)\n'
        fi
        printf 'cd %s && %s\n' "$(quote_command "$RECIPE_DIR")" \
            "$(quote_command env "${ENVIRONMENT[@]}" "${COMMAND[@]}")"
    done
}

# Look at what a run needs, and leave with the exit code of that.
look_first() {
    local log_file status=0
    ! runs_all_folds || fail "--check looks at one of the $RECIPE_FOLDS folds: add --fold 1"
    log_file=$(mktemp)
    build_command check
    run_logged "$log_file" hide_launcher env "${ENVIRONMENT[@]}" "${COMMAND[@]}" || status=$?
    status=$(own_status "$status" "$log_file")
    if ((status != 0)) && ! grep -q -E '^([0-9]+ checks|error): ' "$log_file"; then
        log "a process ended before it could say what it found (exit code $status):" >&2
        tail -n 15 -- "$log_file" | sed 's/^/    | /' >&2
    fi
    rm -f -- "$log_file"
    exit "$status"
}

# Run one stage unless it is done or has nothing to do.
run_stage() {
    local stage=$1 idle folder start=$SECONDS
    idle=$(why_idle "$stage")
    if [[ -n $idle ]]; then
        log "nothing to do: $idle"
        return
    fi
    folder=$(absolute_path "$(dirname -- "$(stage_mark "$stage")")")
    if ! is_forced "$stage" && stage_is_done "$stage"; then
        log "already done: $folder"
        return
    fi
    leave_after_notice
    check_inputs "$stage"
    if is_forced "$stage"; then
        discard_output "$stage"
    fi
    build_command "$stage"
    make_folder "$(dirname -- "$(stage_log "$stage")")"
    write_mark "$stage" unfinished
    run_command "$stage"
    if [[ $stage == 0 ]]; then
        # The corpus' lists are there now, and the keys of the other stages depend on them.
        read_keys
    fi
    [[ $stage != 7 ]] || REPORTED=yes
    write_mark "$stage" "${KEY[$stage]}"
    log "finished in $(format_duration $((SECONDS - start))): $folder"
}

# Do one part of a stage, at the same time as others do theirs: without a lock, and without a mark.
run_part() {
    local stage=$1 idle start=$SECONDS
    idle=$(why_idle "$stage")
    if [[ -n $idle ]] || stage_is_done "$stage"; then
        log "${idle:-already done}"
        return
    fi
    check_inputs "$stage"
    build_command "$stage"
    make_folder "$(dirname -- "$(stage_log "$stage")")"
    run_command "$stage"
    log "part ${OPT[part]} finished in $(format_duration $((SECONDS - start)))"
}

# Run the command of a stage; when it fails, say so and leave.
run_command() {
    local log_file status=0 start=$SECONDS
    log_file=$(stage_log "$1")
    STAGE_START=$SECONDS
    log "started; log: $log_file"
    {
        log started
        quote_command env "${ENVIRONMENT[@]}" "${COMMAND[@]}"
    } >>"$log_file"
    run_logged "$log_file" hide_torchrun env "${ENVIRONMENT[@]}" "${COMMAND[@]}" || status=$?
    ((status != 0)) || return 0
    status=$(own_status "$status" "$log_file")
    # Somebody else has asked it to stop: a scheduler, or the processes on another node.
    ((status != STOPPED)) || report_stop
    queue_interrupted "$log_file"
    report_failure "$status" "$log_file" $((SECONDS - start))
}

# Make a folder that stages write into.
make_folder() {
    if ! mkdir -p -- "$1" 2>/dev/null || [[ ! -w $1 ]]; then
        log "error: cannot write into $PWD/$1: check its permissions, and that the disk is not full" >&2
        exit 6
    fi
}

# Print where a stage's output is logged.
stage_log() {
    local node='' of_part=${OPT[part]:+.part${OPT[part]/\//-of-}}
    ((NODE == 0)) || node=.node$NODE
    if (($1 < 5)); then
        printf '%s\n' "$PWD/$DATA_DIR/log/stage$1$of_part.log"
    else
        printf '%s\n' "$PWD/$EXP_DIR/log/stage$1$node.log"
    fi
}

# Show the table of results once more when stage 7 was asked for but done before.
show_results() {
    if ((FIRST <= 7 && LAST >= 7)) && [[ $REPORTED == no ]]; then
        sed -n '/^| *split/{:row;p;n;/^|/b row;q;}' "$EXP_DIR/RESULTS.md"
    fi
}

main "$@"
