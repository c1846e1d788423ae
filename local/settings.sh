# From options and the recipe's variables to the settings that the stages use. Sourced; needs options.sh.
# shellcheck shell=bash
# shellcheck disable=SC2034  # the settings are read in the other files

# What a recipe's run.sh says, by exported variables:
#   AUDIOTAG_RECIPE_DIR  its folder, where everything runs
#   RECIPE_TITLE         what it is, in a few words
#   RECIPE_CONFIG        default of --config, relative to the folder
#   RECIPE_CORPUS        folder of the corpus, or the list of it, relative to the recipe's or absolute; empty when
#                        none is known
#   RECIPE_GENERATES     yes when local/data.sh makes that folder, no when it only checks one of the user's
#   RECIPE_FOLDS         number of folds of a cross-validation, or empty; corpus.fold of the config is the one to
#                        evaluate on
#   RECIPE_VARIABLES     names of the variables that change what local/data.sh generates
#   RECIPE_NOISE         folder of a MUSAN-style noise corpus, or empty
read_recipe() {
    : "${RECIPE_TITLE:?}" "${RECIPE_CONFIG:?}" "${RECIPE_GENERATES:?}"
    : "${RECIPE_CORPUS=}" "${RECIPE_FOLDS=}" "${RECIPE_VARIABLES=}" "${RECIPE_NOISE=}"
    # A driver that one of the stages might call starts with its own recipe.
    export -n AUDIOTAG_RECIPE_DIR
    RECIPE_DIR=$AUDIOTAG_RECIPE_DIR
    RECIPE_NAME=${RECIPE_DIR##*/}
    if [[ -n ${GIVEN[recipe]-} && ${OPT[recipe]} != "$RECIPE_NAME" ]]; then
        fail "this is the run.sh of recipe $RECIPE_NAME; for --recipe ${OPT[recipe]} call $ROOT/run.sh"
    fi
}

# Set everything that the stages need to know before Python runs.
make_settings() {
    CALLER_DIR=$PWD
    absolute_models
    FIRST=${OPT[stage]}
    LAST=${OPT[stop-stage]}
    REPORTED=no
    MODULE_PATH=$ROOT${PYTHONPATH:+:$PYTHONPATH}
    CONFIG=$(find_config "${OPT[config]:-$RECIPE_CONFIG}") || exit
    TAG=${OPT[tag]:-${CONFIG##*/}}
    TAG=${TAG%.y*ml}
    check_tag "$TAG"
    choose_fold
    DATA_DIR=data${FOLD:+/fold$FOLD}
    EXP_DIR=exp/$TAG${FOLD:+/fold$FOLD}
    make_overrides
    # nproc would take OMP_NUM_THREADS for the number of cores.
    CORES=$(env -u OMP_NUM_THREADS nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
    # The machine that submits jobs does not run them.
    [[ ${OPT[launcher]} == local ]] || CORES=8
    NJ=${OPT[nj]:-$((CORES < 8 ? CORES : 8))}
    VISIBLE_GPUS=$(($(list_gpus | wc -l)))
    NGPU=${OPT[ngpu]:-$VISIBLE_GPUS}
    # The folds are what is spread over GPUs: a fold's batches shall not depend on how many there are.
    [[ -z $RECIPE_FOLDS || -n ${OPT[ngpu]} ]] || NGPU=$((VISIBLE_GPUS > 0))
    [[ ${OPT[launcher]} != slurm ]] || return 0
    ((VISIBLE_GPUS == 0 || NGPU <= VISIBLE_GPUS)) ||
        fail "--ngpu $NGPU: only $VISIBLE_GPUS GPUs are visible"
    check_nodes
    RESTARTS=${OPT[max-restarts]:-0}
    ! uses_steps || RESTARTS=${OPT[max-restarts]:-$RESTARTS_IN_JOBS}
}

# Set FOLD to the one that this run is for; it stays empty for all folds, and where a recipe has none.
choose_fold() {
    local given="--fold ${OPT[fold]}"
    FOLD=${OPT[fold]}
    if [[ -z $RECIPE_FOLDS ]]; then
        [[ -z $FOLD${OPT[fold-jobs]} ]] || fail "recipe $RECIPE_NAME has no folds: leave --fold and --fold-jobs out"
        return
    fi
    if [[ -z $FOLD && -n ${SLURM_ARRAY_TASK_ID:-} ]]; then
        FOLD=$SLURM_ARRAY_TASK_ID
        given="SLURM_ARRAY_TASK_ID=$FOLD, which is taken for --fold"
    fi
    [[ -z $FOLD || $FOLD =~ ^[1-9][0-9]{0,3}$ && $FOLD -le $RECIPE_FOLDS ]] ||
        fail "$given: recipe $RECIPE_NAME has the folds 1 to $RECIPE_FOLDS"
}

# Relative paths of models are meant from where the user calls; all else may be a name on a hub.
absolute_models() {
    local name
    for name in DEIT_CHECKPOINT AST_CHECKPOINT BEATS_CHECKPOINT; do
        [[ -z ${!name-} || ${!name} == /* || ! -e $PWD/${!name} ]] || export "$name=$PWD/${!name}"
    done
}

# Print the config file as the recipe's folder sees it.
find_config() {
    local known
    if [[ $1 == /* && -f $1 || -f $RECIPE_DIR/$1 ]]; then
        printf '%s\n' "$1"
    elif [[ $1 != /* && -f $PWD/$1 ]]; then
        printf '%s\n' "$PWD/$1"
    else
        known=$(cd -- "$RECIPE_DIR" && printf '%s\n' conf/*.yaml | paste -s -d ' ' -)
        fail "config $1 not found in $RECIPE_DIR, nor in $PWD; the recipe has: $known"
    fi
}

# Set SET_ARGUMENTS to all overrides of the config, those of the command line last, and CORPUS to its folder.
make_overrides() {
    local override
    CORPUS=$RECIPE_CORPUS
    CORPUS_GIVEN=no
    NOISE_GIVEN=no
    SET_ARGUMENTS=()
    [[ -z $CORPUS ]] || SET_ARGUMENTS+=(--set "corpus.dir=$(yaml_text "$CORPUS")")
    [[ -z $FOLD ]] || SET_ARGUMENTS+=(--set "corpus.fold=$FOLD")
    if [[ -n ${OPT[max-duration]} ]]; then
        SET_ARGUMENTS+=(--set data.batch_size=null --set "data.max_duration_s=${OPT[max-duration]}")
    fi
    for override in "${SETS[@]}"; do
        case $override in
            corpus.dir=*)
                CORPUS=${override#*=}
                CORPUS_GIVEN=yes
                ;;
            corpus.fold=*)
                [[ -z $RECIPE_FOLDS ]] || fail "--set $override: the folds of $RECIPE_NAME are chosen with --fold N"
                ;;
            augment.noise.dir=* | augment.noise=*) NOISE_GIVEN=yes ;;
        esac
        SET_ARGUMENTS+=(--set "$override")
    done
    # The config may choose weights in other ways, which exclude these.
    if [[ -n ${OPT[epoch]}${OPT[avg]} || ${OPT[best]} == yes || ${OPT[use-averaged-model]} == yes ]]; then
        for override in best_k checkpoints between; do
            SET_ARGUMENTS+=(--set "evaluation.$override=null")
        done
    fi
    if [[ -n ${OPT[epoch]} ]]; then
        SET_ARGUMENTS+=(--set evaluation.best=false --set "evaluation.epoch=${OPT[epoch]}")
    elif [[ ${OPT[best]} == yes ]]; then
        SET_ARGUMENTS+=(--set evaluation.epoch=null --set evaluation.best=true)
    fi
    [[ -z ${OPT[avg]} ]] || SET_ARGUMENTS+=(--set "evaluation.avg=${OPT[avg]}")
    if [[ ${OPT[use-averaged-model]} == yes ]]; then
        SET_ARGUMENTS+=(--set evaluation.weights=model --set evaluation.use_averaged_model=true)
    fi
}

# Print a path as --set takes it: in quotes where YAML would read a comment in it.
yaml_text() {
    if [[ $1 == *' #'* ]]; then
        printf "'%s'\n" "${1//\'/\'\'}"
    else
        printf '%s\n' "$1"
    fi
}

# With several nodes each runs the same command, and they must find each other.
check_nodes() {
    local name
    NODE=0
    ((${OPT[num-nodes]} > 1)) || return 0
    [[ -z ${GIVEN[max-restarts]-} ]] ||
        fail "--max-restarts with --num-nodes needs Slurm, or torchrun's own options: docs/cluster.md"
    ! runs_all_folds || fail "--num-nodes ${OPT[num-nodes]} trains one fold: add --fold N"
    ((FIRST == 5 && LAST == 5)) ||
        fail "--num-nodes ${OPT[num-nodes]} is for training: add --stage 5 --stop-stage 5," \
            "and run the other stages on one node"
    for name in MASTER_ADDR MASTER_PORT NODE_RANK; do
        [[ -n ${!name:-} ]] ||
            fail "--num-nodes ${OPT[num-nodes]} needs $name: set MASTER_ADDR and MASTER_PORT (host and free" \
                "port of the first node, the same everywhere) and NODE_RANK (0, 1, ...) on every node"
    done
    [[ $NODE_RANK =~ ^(0|[1-9][0-9]*)$ && $NODE_RANK -lt ${OPT[num-nodes]} ]] ||
        fail "NODE_RANK=$NODE_RANK: expected 0 to $((${OPT[num-nodes]} - 1))"
    NODE=$NODE_RANK
}

# The first of several nodes listens for the others.
check_port() {
    ((${OPT[num-nodes]} > 1 && NODE == 0)) || return 0
    ! (exec 3<>"/dev/tcp/127.0.0.1/$MASTER_PORT") 2>/dev/null ||
        fail "MASTER_PORT=$MASTER_PORT is in use on this machine: take another one, the same on all nodes"
}

# Print a path of the recipe's folder as an absolute one.
absolute_path() {
    if [[ $1 == /* ]]; then
        printf '%s\n' "$1"
    else
        printf '%s\n' "$RECIPE_DIR/$1"
    fi
}
