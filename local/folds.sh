# Cross-validation: the folds of a recipe side by side, each by a driver of its own, and one table over all.
# Sourced; needs log.sh, process.sh, stages.sh and the driver's settings.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2153  # settings come from and go to the other files

JOBS=             # folds that run side by side
FOLD_IN=()        # by slot: the fold that runs there
DRIVER_IN=()      # by slot: the process of its driver
WRITER_IN=()      # by slot: the process that writes its log
STATUS_OF=()      # by fold: the exit status of its driver

# Whether this run is for all folds of its recipe.
runs_all_folds() {
    [[ -n $RECIPE_FOLDS && -z $FOLD ]]
}

# run_folds ARGUMENTS...: all folds with the arguments of this run, and the table where stage 7 is among them.
run_folds() {
    # Each fold is a driver of its own, which knows one machine.
    ! uses_steps || ((SLURM_NNODES == 1)) ||
        fail "all folds in one job of $SLURM_NNODES nodes: take one node, or a task for each fold by" \
            "sbatch --array=1-$RECIPE_FOLDS"
    ((FIRST > 0)) || run_stages 0 0
    ((LAST > 0)) || return 0
    check_start
    choose_jobs
    LOG_LABEL=folds
    make_folder "$EXP_DIR/log"
    log "$RECIPE_FOLDS folds, $JOBS at a time; logs: $PWD/$EXP_DIR/log/fold<N>.log"
    trap 'stop_folds INT 130' INT
    trap 'stop_folds TERM 143' TERM
    trap 'stop_folds HUP 129' HUP
    trap 'stop_folds USR1 138' USR1
    run_side_by_side "$@"
    trap_signals
    report_folds
    ((FIRST > 7 || LAST < 7)) || cross_validate
}

# Set JOBS.
choose_jobs() {
    local fitting=1
    ((VISIBLE_GPUS == 0 || NGPU == 0)) || fitting=$((VISIBLE_GPUS / NGPU))
    JOBS=${OPT[fold-jobs]:-$fitting}
    JOBS=$((JOBS < RECIPE_FOLDS ? JOBS : RECIPE_FOLDS))
    ((NGPU == 0 || VISIBLE_GPUS == 0 || JOBS <= fitting)) ||
        log "--fold-jobs $JOBS is more than the $VISIBLE_GPUS visible GPUs can take: folds will share some"
}

# Start fold after fold as slots become free, until all have ended.
run_side_by_side() {
    local fold=1 slot running
    while :; do
        running=0
        for ((slot = 0; slot < JOBS; slot++)); do
            collect_fold "$slot"
            if [[ -z ${FOLD_IN[slot]-} ]] && ((fold <= RECIPE_FOLDS)); then
                start_fold "$fold" "$slot" "$@"
                ((fold += 1))
            fi
            [[ -z ${FOLD_IN[slot]-} ]] || running=$((running + 1))
        done
        ((running)) || break
        sleep 0.2
    done
}

# start_fold FOLD SLOT ARGUMENTS...: a driver for one fold, its output in a log and, marked, here.
start_fold() {
    local fold=$1 slot=$2 sink
    shift 2
    set_fold_command "$fold" "$slot" "$@"
    exec {sink}> >(
        trap '' INT TERM HUP USR1
        tee -a -- "$EXP_DIR/log/fold$fold.log" | mark_lines "fold $fold: "
    )
    WRITER_IN[slot]=$!
    # Job control gives the driver a process group of its own: a terminal's Ctrl-C reaches it by way of us alone.
    set -m
    (cd -- "$CALLER_DIR" && exec env "${ENVIRONMENT[@]}" "${COMMAND[@]}") >&"$sink" 2>&1 {sink}>&- </dev/null &
    DRIVER_IN[slot]=$!
    FOLD_IN[slot]=$fold
    set +m
    exec {sink}>&-
    log "fold $fold started"
}

# set_fold_command FOLD SLOT ARGUMENTS...: set COMMAND and ENVIRONMENT to those of one fold's driver.
set_fold_command() {
    local fold=$1 slot=$2 processes=$((JOBS * (NGPU > 1 ? NGPU : 1)))
    shift 2
    COMMAND=("$BASH" "$RECIPE_DIR/run.sh" "$@" --fold "$fold" --nj "$((NJ > JOBS ? NJ / JOBS : 1))")
    # Stage 0, which all folds share, is done by now.
    ((FIRST > 0)) || COMMAND+=(--stage 1)
    ENVIRONMENT=(AUDIOTAG_PART=yes)
    # Several progress bars would write over each other.
    ((JOBS == 1)) || ENVIRONMENT+=(AUDIOTAG_TERMINAL=)
    if ((VISIBLE_GPUS > 0 && NGPU > 0)); then
        ENVIRONMENT+=("CUDA_VISIBLE_DEVICES=$(gpus_of_slot "$slot")")
    elif ((VISIBLE_GPUS == 0 && JOBS > 1)) && [[ -z ${OMP_NUM_THREADS:-} ]]; then
        ENVIRONMENT+=("OMP_NUM_THREADS=$((CORES > processes ? CORES / processes : 1))")
    fi
}

# Print the GPUs of a slot as CUDA_VISIBLE_DEVICES names them.
gpus_of_slot() {
    local all own=() number
    mapfile -t all < <(list_gpus)
    for ((number = 0; number < NGPU; number++)); do
        own+=("${all[($1 * NGPU + number) % ${#all[@]}]}")
    done
    printf '%s\n' "${own[@]}" | paste -s -d , -
}

# Pass stdin on with a text before each line.
mark_lines() {
    local line
    while IFS= read -r line || [[ -n $line ]]; do
        printf '%s%s\n' "$1" "$line"
    done
}

# collect_fold SLOT: note how the fold there went, if it has ended, and free the slot.
collect_fold() {
    local slot=$1 fold=${FOLD_IN[$1]-} status=0
    [[ -n $fold ]] && ! kill -0 "${DRIVER_IN[slot]}" 2>/dev/null || return 0
    wait "${DRIVER_IN[slot]}" 2>/dev/null || status=$?
    WRITER=${WRITER_IN[slot]}
    await_writer
    STATUS_OF[fold]=$status
    FOLD_IN[slot]=
    if ((status == 0)); then log "fold $fold finished"; else log "fold $fold ended with exit code $status"; fi
}

# stop_folds SIGNAL STATUS: pass the signal on to the folds, see them out, leave with STATUS, or with that of a
# training which has saved its state.
stop_folds() {
    local slot fold running=1
    trap '' USR1
    trap kill_folds INT TERM HUP
    log "SIG$1: stopping the folds"
    for ((slot = 0; slot < JOBS; slot++)); do
        [[ -z ${FOLD_IN[slot]-} ]] || kill -s "$1" "${DRIVER_IN[slot]}" 2>/dev/null || true
    done
    while ((running)); do
        running=0
        for ((slot = 0; slot < JOBS; slot++)); do
            collect_fold "$slot"
            [[ -z ${FOLD_IN[slot]-} ]] || running=1
        done
        sleep 0.1
    done
    for fold in "${!STATUS_OF[@]}"; do
        ((STATUS_OF[fold] != STOPPED)) || report_stop
    done
    log stopped
    [[ $1 != USR1 ]] || queue_again
    exit "$2"
}

# Kill the folds with all that they have started, as a second signal asks.
kill_folds() {
    local slot pid
    for ((slot = 0; slot < JOBS; slot++)); do
        [[ -n ${FOLD_IN[slot]-} ]] || continue
        for pid in $(list_descendants "${DRIVER_IN[slot]}") "${DRIVER_IN[slot]}"; do
            kill -KILL "$pid" 2>/dev/null || true
        done
    done
}

# Name the folds that have not succeeded, and leave with the exit status of the first.
report_folds() {
    local fold first=0 failed=()
    for ((fold = 1; fold <= RECIPE_FOLDS; fold++)); do
        ((STATUS_OF[fold] != 0)) || continue
        failed+=("fold $fold (exit code ${STATUS_OF[fold]}, log $PWD/$EXP_DIR/log/fold$fold.log)")
        ((first != 0 && first != STOPPED)) || first=${STATUS_OF[fold]}
    done
    ((first)) || return 0
    ((first != STOPPED)) || report_stop
    log "FAILED: ${#failed[@]} of $RECIPE_FOLDS folds:" >&2
    printf '  %s\n' "${failed[@]}" >&2
    exit "$first"
}

# Set COMMAND and ENVIRONMENT to those of the table over all folds.
set_table_command() {
    ENVIRONMENT=("PYTHONPATH=$MODULE_PATH")
    COMMAND=("$PYTHON" -m audiotag.bin.crossvalidate --exp-dir "$EXP_DIR" --folds "$RECIPE_FOLDS")
    [[ ${OPT[verbose]} == no ]] || COMMAND+=(--verbose)
}

# Write and print the table over all folds.
cross_validate() {
    local log_file status=0 start=$SECONDS
    LOG_LABEL="stage 7: $(stage_name 7)"
    log_file=$(stage_log 7)
    set_table_command
    {
        log started
        quote_command env "${ENVIRONMENT[@]}" "${COMMAND[@]}"
    } >>"$log_file"
    run_logged "$log_file" cat env "${ENVIRONMENT[@]}" "${COMMAND[@]}" || status=$?
    ((status == 0)) || report_failure "$status" "$log_file" $((SECONDS - start))
    log "finished: $PWD/$EXP_DIR/RESULTS.md"
}

# Print what the folds, and the table over them, would run.
print_folds() {
    local fold slot gpus
    ((FIRST > 0)) || print_commands 0 0
    ((LAST > 0)) || return 0
    choose_jobs
    for ((fold = 1; fold <= RECIPE_FOLDS; fold++)); do
        slot=$(((fold - 1) % JOBS))
        set_fold_command "$fold" "$slot" "$@"
        gpus=$(printf '%s\n' "${ENVIRONMENT[@]}" | grep '^CUDA_VISIBLE_DEVICES=' || true)
        printf '# fold %s of %s%s\n' "$fold" "$RECIPE_FOLDS" "${gpus:+, with $gpus}"
        (cd -- "$CALLER_DIR" && env "${ENVIRONMENT[@]}" "${COMMAND[@]}")
    done
    if ((FIRST <= 7 && LAST >= 7)); then
        guess_python
        set_table_command
        printf '# all folds: %s\n' "$(stage_name 7)"
        printf 'cd %s && %s\n' "$(quote_command "$RECIPE_DIR")" \
            "$(quote_command env "${ENVIRONMENT[@]}" "${COMMAND[@]}")"
    fi
}
