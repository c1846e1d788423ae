# The driver's options: one table is the parser, the documentation and --help. Sourced; needs log.sh.
# shellcheck shell=bash
# shellcheck disable=SC2034  # the tables are read in the other files

# name | argument (- for none, ... for repeatable) | default ((...) describes a computed one) | meaning
readonly OPTION_TABLE='
recipe     | NAME         | mini                                | recipe to run: a folder of egs/
config     | FILE         | (the one that the recipe names)     | YAML file, looked up in the folder of the recipe, then in the current one
tag        | NAME         | (name of the config file)           | the run is kept in exp/<tag> of the folder of the recipe
stage      | N            | 0                                   | first stage to run
stop-stage | N            | 8                                   | last stage to run
set        | KEY=VALUE... | (none)                              | override one key of the config, such as optimizer.lr=1e-4; may be repeated
ngpu       | N            | (number of visible GPUs)            | GPUs, each with one process of training and evaluation; 0 uses the CPU; without GPUs N is a number of CPU processes
fold       | N            | (all of them)                       | run this fold alone of a recipe with folds, such as esc50, into data/fold<N> and exp/<tag>/fold<N>; in a Slurm array the number of its task is the fold
fold-jobs  | N            | (number of visible GPUs, or 1)      | folds that run side by side, each with GPUs of its own: as many as --ngpu says, or 1
num-nodes  | N            | 1                                   | machines that train together; from 2 on call stage 5 on each, with MASTER_ADDR, MASTER_PORT and NODE_RANK set; with --launcher slurm the nodes that its job asks for
max-restarts | N          | (3 in Slurm jobs, else 0)           | times that training is started again in place, from its last checkpoint, when one of its processes has died
launcher   | NAME         | local                               | local runs the stages here; slurm submits each as a job of a Slurm cluster, after the one before it
slurm-conf | FILE         | (conf/slurm.yaml of the recipe, else that of the toolkit) | what the jobs ask for: partition, GPUs, time and so on
wait       | -            | no                                  | with --launcher slurm: wait until the jobs have ended, also for those of an earlier command; exit code and end of the log of one that fails
follow     | -            | no                                  | only show the newest log of the run as it grows: that of its jobs until they have ended, else of a stage or fold that runs here
part       | I/N          | (all of it)                         | do the I-th of N parts of stage 1 or 2, as a task of a job array; the stage itself puts the parts together
max-duration | N          | (as in the config)                  | most seconds of audio of a batch on one process, in place of a number of clips: data.max_duration_s, with data.batch_size null
nj         | N            | (number of CPU cores, at most 8)    | processes that prepare data; with --launcher slurm tasks of a job array, each with as many processes as it has processors
epoch      | N            | (the last one)                      | evaluate and export this epoch: evaluation.epoch
avg        | N            | (as in the config)                  | average the weights of this many epochs, ending at the chosen one: evaluation.avg
best       | -            | no                                  | take the epoch with the best validation metric: evaluation.best
use-averaged-model | -    | no                                  | with --avg, the mean of the weights over all updates of these epochs in place of that of their checkpoints: evaluation.use_averaged_model
restart    | -            | no                                  | train afresh; an earlier run of this tag is kept in exp/<tag>.old-<n>
force      | -            | no                                  | redo the requested stages even when they are done; stage 5 as with --restart
check      | -            | no                                  | look at this machine, processes, corpus, disk space and locks with the settings of the run, and run nothing
dry-run    | -            | no                                  | print the commands of the stages, or with --launcher slurm the scripts of their jobs, and run nothing
verbose    | -            | no                                  | log more, and show tracebacks of errors
help       | -            | no                                  | print this text
'

declare -A OPT=()          # value by option; empty where the default is computed
declare -A ARGUMENT=()     # what follows an option; empty for none
declare -A GIVEN=()        # options with a value on the command line
OPTION_NAMES=()
SETS=()                    # all values of --set

# Fill the tables above from OPTION_TABLE.
load_option_table() {
    local name argument default _
    while IFS='|' read -r name argument default _; do
        name=$(trim "$name")
        [[ -n $name ]] || continue
        argument=$(trim "$argument")
        default=$(trim "$default")
        OPTION_NAMES+=("$name")
        ARGUMENT[$name]=${argument#-}
        OPT[$name]=$default
        [[ $default != '('* ]] || OPT[$name]=
    done <<<"$OPTION_TABLE"
}

# Read the command line; both --opt value and --opt=value, both - and _ inside names.
parse_options() {
    local given name value inline
    load_option_table
    while (($#)); do
        given=$1
        shift
        [[ $given != -h ]] || given=--help
        inline=no
        name=${given#--}
        if [[ $name == *=* ]]; then
            inline=yes
            value=${name#*=}
            name=${name%%=*}
        fi
        name=${name//_/-}
        if [[ $given != --* ]] || ! is_option "$name"; then
            fail "unknown option $given$(suggest_option "$name"); see ./run.sh --help"
        fi
        if [[ -z ${ARGUMENT[$name]} ]]; then
            [[ $inline == no ]] || fail "--$name takes no value, found $given"
            OPT[$name]=yes
            continue
        fi
        if [[ $inline == no ]]; then
            (($#)) && [[ $1 != --* ]] || fail "--$name needs a value: --$name ${ARGUMENT[$name]%...}"
            value=$1
            shift
        fi
        store_option "$name" "$value"
    done
}

# Keep one option's value.
store_option() {
    if [[ $1 == set ]]; then
        [[ $2 == ?*=* ]] || fail "--set $2: expected KEY=VALUE, such as training.epochs=20"
        SETS+=("$2")
    else
        [[ -n $2 ]] || fail "--$1 needs a value: --$1 ${ARGUMENT[$1]}"
        OPT[$1]=$2
        GIVEN[$1]=yes
    fi
}

# Refuse values that no stage could use.
check_options() {
    local name
    for name in "${OPTION_NAMES[@]}"; do
        [[ ${ARGUMENT[$name]} == N && -n ${OPT[$name]} ]] || continue
        [[ ${OPT[$name]} =~ ^(0|[1-9][0-9]{0,5})$ ]] || fail "--$name ${OPT[$name]}: expected a whole number"
    done
    for name in fold fold-jobs num-nodes max-duration nj epoch avg; do
        [[ ${OPT[$name]} != 0 ]] || fail "--$name must be at least 1"
    done
    [[ ${OPT[launcher]} == local || ${OPT[launcher]} == slurm ]] ||
        fail "--launcher ${OPT[launcher]}: expected local or slurm"
    [[ ${OPT[wait]} == no || ${OPT[launcher]} == slurm ]] || fail "--wait goes with --launcher slurm"
    for name in stage stop-stage; do
        ((${OPT[$name]} <= LAST_STAGE)) || fail "--$name ${OPT[$name]}: stages are 0 to $LAST_STAGE"
    done
    [[ ${OPT[stage]} -le ${OPT[stop-stage]} ]] ||
        fail "--stage ${OPT[stage]} comes after --stop-stage ${OPT[stop-stage]}"
    [[ -z ${OPT[epoch]} || ${OPT[best]} == no ]] || fail "--epoch and --best exclude each other"
    [[ ${OPT[check]} == no ]] || check_look
    [[ -z ${OPT[part]} ]] || check_part
    [[ -z ${OPT[tag]} ]] || check_tag "${OPT[tag]}"
}

# A look at the machine runs nothing, here or elsewhere.
check_look() {
    local name
    for name in dry-run follow; do
        [[ ${OPT[$name]} == no ]] || fail "--check runs nothing but a look at this machine: leave --$name out"
    done
    [[ ${OPT[launcher]} == local ]] ||
        fail "--check looks at the machine that it runs on: leave --launcher ${OPT[launcher]} out;" \
            "for the nodes of a job: sbatch [options] run.sh --check"
}

# A part is one of N, of a stage whose work can be shared out.
check_part() {
    local number=${OPT[part]%/*} count=${OPT[part]#*/}
    [[ ${OPT[part]} =~ ^[1-9][0-9]{0,5}/[1-9][0-9]{0,5}$ && $number -le $count ]] ||
        fail "--part ${OPT[part]}: expected I/N with I from 1 to N, such as 3/64"
    [[ ${OPT[stage]} == "${OPT[stop-stage]}" && ${OPT[stage]} == [12] && ${OPT[launcher]} == local ]] ||
        fail "--part ${OPT[part]} is for stage 1 or 2 alone: add --stage 2 --stop-stage 2"
}

# A tag names a folder inside exp/, and stands in file patterns.
check_tag() {
    [[ -n $1 && $1 != .* && $1 != *[[:space:][:cntrl:]/*?\\[\]]* ]] ||
        fail "--tag '$1': expected a plain folder name without blanks and signs such as / * ? [ ]"
}

is_option() {
    local name
    for name in "${OPTION_NAMES[@]}"; do
        [[ $name != "$1" ]] || return 0
    done
    return 1
}

# Print `; did you mean --x?` for the option nearest to a name, or nothing when none is near.
suggest_option() {
    local name distance nearest='' least=$((${#1} / 3 + 2))
    for name in "${OPTION_NAMES[@]}"; do
        distance=$(edit_distance "${1:0:40}" "$name")
        [[ $name != "$1"* || -z $1 ]] || distance=1
        if ((distance < least)); then
            least=$distance
            nearest=$name
        fi
    done
    [[ -z $nearest ]] || printf '; did you mean --%s?' "$nearest"
}

# Levenshtein's distance between two words.
edit_distance() {
    local a=$1 b=$2 i j cost left
    local -a above=() row=()
    for ((j = 0; j <= ${#b}; j++)); do above[j]=$j; done
    for ((i = 1; i <= ${#a}; i++)); do
        row=("$i")
        for ((j = 1; j <= ${#b}; j++)); do
            cost=1
            [[ ${a:i-1:1} != "${b:j-1:1}" ]] || cost=0
            left=$((above[j] + 1 < row[j - 1] + 1 ? above[j] + 1 : row[j - 1] + 1))
            row[j]=$((above[j - 1] + cost < left ? above[j - 1] + cost : left))
        done
        above=("${row[@]}")
    done
    printf '%s\n' "${above[${#b}]}"
}

# Print every option with its default and meaning, and the stages.
print_help() {
    local name argument default meaning
    printf 'Usage: ./run.sh [options]\n\n'
    fold -s -w 94 <<<"Runs the stages of a recipe, here $RECIPE_NAME: $RECIPE_TITLE. Finished stages are skipped."
    printf '\nOptions:\n'
    while IFS='|' read -r name argument default meaning; do
        name=$(trim "$name")
        [[ -n $name ]] || continue
        argument=$(trim "$argument")
        [[ $argument != - ]] || argument=
        default=$(trim "$default")
        [[ $name != config ]] || default=$RECIPE_CONFIG
        default=${default#(}
        printf '  --%s\n' "$name${argument:+ ${argument%...}}"
        printf '%s (default: %s)\n' "$(trim "$meaning")" "${default%)}" | fold -s -w 86 | sed 's/^/        /'
    done <<<"$OPTION_TABLE"
    printf '\n%s\n' 'Names may be written with - or _, values after a blank or after =.'
    print_stages
}

# Print a text without blanks around it.
trim() {
    local text=${1#"${1%%[![:space:]]*}"}
    printf '%s' "${text%"${text##*[![:space:]]}"}"
}
