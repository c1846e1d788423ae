# The stages: names, commands, inputs and what they leave. Sourced; needs log.sh and the driver's settings.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2153  # settings come from and go to the other files

readonly LAST_STAGE=8

# number | name | does | leaves
readonly STAGE_TABLE='
0 | corpus     | check, fetch or generate the corpus                    | folder of the corpus
1 | manifests  | list the clips: one lhotse cut each, with its labels   | data/manifests
2 | features   | log-mel features of all clips, when they are stored    | data/fbank/<preset>
3 | noise      | noise clips and features, when the config mixes noise  | data/noise/<preset>
4 | statistics | mean and deviation, class counts, sampling weights     | data/stats/<features>
5 | train      | train the model                                        | exp/<tag>
6 | evaluate   | score the evaluation clips, compute the metrics        | exp/<tag>/eval_*
7 | results    | table and plots                                        | exp/<tag>/RESULTS.md
8 | export     | pack the model for use                                 | exp/<tag>/export
'

# Print the stages for --help.
print_stages() {
    printf '\nStages:\n'
    sed -E '/^$/d; s/^([0-9]) +\| +([a-z]+) +\| +([^|]*[^| ]) +\| +(.*)$/  \1 \2: \3 -> \4/' <<<"$STAGE_TABLE"
}

# Print the name of a stage.
stage_name() {
    sed -n -E "s/^$1 +\| +([a-z]+) .*/\1/p" <<<"$STAGE_TABLE"
}

# Print where a stage's done-mark lies: inside the folder that the stage makes, so that it goes with it.
stage_mark() {
    case $1 in
        0) printf '%s\n' "$CORPUS/.done" ;;
        1) printf '%s\n' "$DATA_DIR/manifests/.done" ;;
        2) printf '%s\n' "$DATA_DIR/fbank/${KEY[preset]}/.done" ;;
        3) printf '%s\n' "$DATA_DIR/noise/${KEY[preset]}/.done" ;;
        4) printf '%s\n' "$DATA_DIR/stats/${KEY[stats]}/.done" ;;
        5) printf '%s\n' "$EXP_DIR/.done_train" ;;
        6) printf '%s\n' "$EXP_DIR/.done_evaluate" ;;
        7) printf '%s\n' "$EXP_DIR/.done_report" ;;
        8) printf '%s\n' "$EXP_DIR/export/.done" ;;
    esac
}

# Print a file, or a pattern of files, without which a stage has not done its work.
stage_product() {
    case $1 in
        0) printf '%s\n' "$CORPUS" ;;
        1) printf '%s\n' "$DATA_DIR/manifests/cuts_train.jsonl" ;;
        2) printf '%s\n' "$DATA_DIR/fbank/${KEY[preset]}/cuts_train.jsonl" ;;
        3) printf '%s\n' "$DATA_DIR/noise/${KEY[preset]}/cuts_noise.jsonl" ;;
        4) printf '%s\n' "$DATA_DIR/stats/${KEY[stats]}/stats.json" ;;
        5) printf '%s\n' "$EXP_DIR/epoch-*.pt" ;;
        6) printf '%s\n' "$EXP_DIR/eval_*/metrics.json" ;;
        7) printf '%s\n' "$EXP_DIR/RESULTS.md" ;;
        8) printf '%s\n' "$EXP_DIR/export/model.safetensors" ;;
    esac
}

# Print the stages whose products a stage cannot start without.
stages_needed() {
    local data=1
    [[ ${KEY[storage]} != stored ]] || data+=' 2'
    case $1 in
        1) [[ $RECIPE_GENERATES == no || $CORPUS_GIVEN == yes ]] || printf '%s\n' 0 ;;
        2) printf '%s\n' 1 ;;
        4) printf '%s\n' "$data" ;;
        5)
            [[ ${KEY[noise]} == no ]] || data+=' 3'
            printf '%s\n' "$data 4"
            ;;
        6) printf '%s\n' "$data 5" ;;
        7) printf '%s\n' 6 ;;
        8) printf '%s\n' 5 ;;
    esac
}

# Print why a stage has nothing to do with these settings, or nothing when it has.
why_idle() {
    if [[ $1 == 0 && $CORPUS_GIVEN == yes && $RECIPE_GENERATES == yes ]]; then
        printf '%s\n' "the corpus is the one that --set corpus.dir names"
    elif [[ $1 == 2 && ${KEY[storage]} == on_the_fly ]]; then
        printf '%s\n' "the config computes features on the fly"
    elif [[ $1 == 3 && ${KEY[noise]} == no ]]; then
        printf '%s\n' "the config mixes no noise"
    fi
}

# Whether a stage is redone although it is done. A job that is queued again keeps what it has made; training finds out
# by itself whether it has begun afresh.
is_forced() {
    if (($1 == 5)); then
        [[ ${OPT[force]} == yes || ${OPT[restart]} == yes ]]
    else
        [[ ${OPT[force]} == yes ]] && ! is_queued_again
    fi
}

# Set COMMAND to the command of a stage, run in the recipe's folder, and ENVIRONMENT to its variables.
build_command() {
    local config=(--config "$CONFIG" "${SET_ARGUMENTS[@]}")
    ENVIRONMENT=("PYTHONPATH=$MODULE_PATH")
    [[ ${OPT[verbose]} == no ]] || config+=(--verbose)
    case $1 in
        0)
            ENVIRONMENT+=("PYTHON=$PYTHON")
            COMMAND=("$BASH" local/data.sh "$CORPUS")
            ;;
        1) COMMAND=("$PYTHON" -m audiotag.bin.prepare "${config[@]}" --data-dir "$DATA_DIR" --nj "$NJ") ;;
        2) COMMAND=("$PYTHON" -m audiotag.bin.extract_features "${config[@]}" --data-dir "$DATA_DIR" --nj "$NJ") ;;
        3) COMMAND=("$PYTHON" -m audiotag.bin.prepare_noise "${config[@]}" --data-dir "$DATA_DIR" --nj "$NJ") ;;
        4) COMMAND=("$PYTHON" -m audiotag.bin.stats "${config[@]}" --data-dir "$DATA_DIR" --nj "$NJ") ;;
        5)
            use_gpus "$NGPU"
            build_launcher "$RESTARTS" yes
            COMMAND+=(audiotag.bin.train "${config[@]}" --data-dir "$DATA_DIR" --exp-dir "$EXP_DIR")
            if is_forced 5; then
                COMMAND+=(--restart)
                GO_ON="the same command without --restart or --force goes on from there"
            fi
            ;;
        6)
            use_gpus "$NGPU"
            build_launcher
            COMMAND+=(audiotag.bin.evaluate "${config[@]}" --data-dir "$DATA_DIR" --exp-dir "$EXP_DIR")
            ;;
        check)
            use_gpus "$NGPU"
            build_launcher
            COMMAND+=(audiotag.bin.check "${config[@]}" --data-dir "$DATA_DIR" --exp-dir "$EXP_DIR")
            ;;
        7)
            # Its list of fonts goes here, and not into the user's home.
            ENVIRONMENT+=("MPLCONFIGDIR=${MPLCONFIGDIR:-$RECIPE_DIR/data/cache/matplotlib}")
            COMMAND=("$PYTHON" -m audiotag.bin.report "${config[@]}" --exp-dir "$EXP_DIR")
            ;;
        8)
            COMMAND=("$PYTHON" -m audiotag.bin.export "${config[@]}" --exp-dir "$EXP_DIR")
            COMMAND+=(--to package --dest "$EXP_DIR/export")
            ;;
    esac
    [[ -z ${OPT[part]} ]] || COMMAND+=(--part "${OPT[part]}")
}

# Show a command as many GPUs as it uses; with --ngpu 0 none.
use_gpus() {
    if ((NGPU == 0)) && [[ $VISIBLE_GPUS != 0 || -n ${GIVEN[ngpu]-} ]]; then
        ENVIRONMENT+=(CUDA_VISIBLE_DEVICES=)
    elif ((NGPU < VISIBLE_GPUS)); then
        ENVIRONMENT+=("CUDA_VISIBLE_DEVICES=$(list_gpus | head -n "$NGPU" | paste -s -d , -)")
    fi
    if ((VISIBLE_GPUS == 0 && $1 > 1)) && [[ -z ${OMP_NUM_THREADS:-} ]]; then
        # CPU processes share the cores.
        ENVIRONMENT+=("OMP_NUM_THREADS=$((CORES > $1 ? CORES / $1 : 1))")
    fi
}

# build_launcher [RESTARTS SAVES]: set COMMAND to what starts the processes of training and evaluation: python
# itself, or torchrun for several, or for one that is to be started again when it has died. SAVES is yes for a
# program that saves its state when it is asked to stop.
build_launcher() {
    local restarts=${1:-0} saves=${2:-no}
    # Schedulers send SIGUSR1 to all processes of a job; torchrun would die of it before its workers have saved.
    local signals=(--signals-to-handle "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1")
    COMMAND=("$PYTHON" -m)
    if uses_steps; then
        build_step_launcher "$restarts" "$saves"
    elif ((${OPT[num-nodes]} > 1)); then
        COMMAND+=(torch.distributed.run "${signals[@]}" --nnodes "${OPT[num-nodes]}" --node-rank "$NODE_RANK")
        COMMAND+=(--master-addr "$MASTER_ADDR" --master-port "$MASTER_PORT")
        COMMAND+=(--nproc-per-node "$((NGPU > 1 ? NGPU : 1))" -m)
    elif ((NGPU > 1 || restarts > 0)); then
        # Otherwise processes that start again find in the store what the ones before them have left.
        ((restarts == 0)) || ENVIRONMENT+=(TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1)
        # --standalone picks a free port by itself.
        COMMAND+=(torch.distributed.run "${signals[@]}" --standalone --nproc-per-node "$((NGPU > 1 ? NGPU : 1))")
        ((restarts == 0)) || COMMAND+=(--max-restarts "$restarts")
        COMMAND+=(-m)
    fi
}

# Print the visible GPUs, one a line, as CUDA_VISIBLE_DEVICES names them.
list_gpus() {
    if [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
        tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | sed -n '/^ *-/q; s/ //g; /^NoDevFiles$/q; /./p'
    elif command -v nvidia-smi >/dev/null; then
        nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null | grep -E '^[0-9]+$' || true
    fi
}
