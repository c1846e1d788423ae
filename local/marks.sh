# Done-marks: what is finished with which settings, and whether a stage may start. Sourced; needs stages.sh.
# shellcheck shell=bash

# Hash of its inputs by stage, and a few settings of the config by name.
declare -A KEY=()

# Fill KEY. The config is checked here too, so that a mistake in it ends the run before any stage.
read_keys() {
    local text name value
    text=$(PYTHONPATH=$MODULE_PATH "$PYTHON" -m audiotag.bin.config \
        --config "$CONFIG" "${SET_ARGUMENTS[@]}" --stage-keys) || exit
    while read -r name value; do
        KEY[$name]=$value
    done <<<"$text"
    if [[ ${KEY[noise]} == yes && -n $RECIPE_NOISE && $NOISE_GIVEN == no ]]; then
        # Only now: naming the folder in a config without noise would ask for noise.
        SET_ARGUMENTS=(--set "augment.noise.dir=$(yaml_text "$RECIPE_NOISE")" "${SET_ARGUMENTS[@]}")
        NOISE_GIVEN=yes
        read_keys
        return
    fi
    KEY[0]=$(corpus_key)
}

# Leave with a message when stage 5 is asked for and lacks a model that it starts or learns from: hours of preparation
# would be in vain. A run that goes on from a checkpoint needs it no more, but for teachers.
check_start() {
    local place
    ((FIRST <= 5 && LAST >= 5)) && [[ ${KEY[init]} != no ]] || return 0
    if [[ ${KEY[init]} == once ]] && ! is_forced 5; then
        for place in "$EXP_DIR" "$EXP_DIR"/fold*; do
            ! is_there "$place/epoch-*.pt" && ! is_there "$place/step-*.pt" || return 0
        done
    fi
    PYTHONPATH=$MODULE_PATH "$PYTHON" -m audiotag.bin.config --config "$CONFIG" "${SET_ARGUMENTS[@]}" \
        --check-start || exit
}

# Print the hash of what the corpus is generated from.
corpus_key() {
    local name
    {
        cat local/data.sh
        for name in $RECIPE_VARIABLES; do
            printf '%s=%s\n' "$name" "${!name-}"
        done
    } | checksum
}

# Whether a stage leaves a mark: not where it only checks a folder that is not ours.
leaves_mark() {
    [[ $1 != 0 || $RECIPE_GENERATES == yes ]]
}

# Whether a stage was finished with the present inputs, none of them was made anew since, and its product
# is still there.
stage_is_done() {
    local mark before
    leaves_mark "$1" || return 1
    mark=$(stage_mark "$1")
    [[ $(read_mark "$mark") == "${KEY[$1]}" ]] || return 1
    for before in $(stages_needed "$1"); do
        [[ ! $(stage_mark "$before") -nt $mark ]] || return 1
        # Training may go on, or be started without this driver.
        ! { ((before >= 5)) && is_newer "$(stage_product "$before")" "$mark"; } || return 1
    done
    if [[ $1 == 5 && -n ${KEY[start]-} ]]; then
        # Training itself finds out whether they are other models. The time of their coming to this disk counts: a
        # download may bear an old date. Results of a teacher's run come and go.
        local -a models
        IFS=$'\t' read -r -a models <<<"${KEY[start]}"
        [[ -z $(find -L "${models[@]}" -maxdepth 1 -type f ! -name '.*' ! -name '*.png' ! -name '*.md' -cnewer "$mark") ]] \
            || return 1
    fi
    has_all_products "$1" "$mark"
}

# has_all_products STAGE MARK: whether every file that the stage left is there, as long as it was.
has_all_products() {
    [[ -z $(comm -23 <(tail -n +2 -- "$2") <(list_products "$1")) ]]
}

# Print `bytes path` of the files that a stage leaves; not of caches that are remade beside them.
list_products() {
    local -a places
    case $1 in
        1)
            places=("$DATA_DIR/manifests/")
            # The list of the copies stands for them all.
            [[ ! -f $DATA_DIR/audio/copies.jsonl ]] || places+=("$DATA_DIR/audio/copies.jsonl")
            ;;
        5) mapfile -t places < <(compgen -G "$EXP_DIR/epoch-*.pt" | sort -V | tail -n 1) ;;
        6) mapfile -t places < <(compgen -G "$EXP_DIR/eval_*/") ;;
        7) mapfile -t places < <(compgen -G "$EXP_DIR/*.png" && compgen -G "$EXP_DIR/RESULTS.md") ;;
        *) places=("$(dirname -- "$(stage_mark "$1")")/") ;;
    esac
    ((${#places[@]})) || return 0
    { find "${places[@]}" -type f ! -name '.*' ! -name '*.idx' ! -name probes.jsonl -exec wc -c {} + || true; } \
        | sed -E '/^ *[0-9]+ total$/d; s/^ *//' | LC_ALL=C sort
}

# Whether a file, or any file of a pattern, exists.
is_there() {
    [[ -e $1 || -n $(compgen -G "$1") ]]
}

# is_newer PATTERN MARK: whether a file of the pattern was made after the mark.
is_newer() {
    local path
    while IFS= read -r path; do
        [[ ! $path -nt $2 ]] || return 0
    done < <(compgen -G "$1")
    return 1
}

# Print the key in a mark, `unfinished`, or nothing where there is no mark.
read_mark() {
    [[ ! -f $1 ]] || head -n 1 -- "$1"
}

# write_mark STAGE KEY|unfinished
write_mark() {
    local mark
    leaves_mark "$1" || return 0
    mark=$(stage_mark "$1")
    mkdir -p -- "$(dirname -- "$mark")"
    {
        printf '%s\n' "$2"
        [[ $2 == unfinished ]] || list_products "$1"
    } >"$mark"
}

# Leave with a message when something that a stage reads is missing, unfinished or made with other settings.
check_inputs() {
    local maker product mark
    for maker in $(stages_needed "$1"); do
        product=$(stage_product "$maker")
        mark=$(read_mark "$(stage_mark "$maker")")
        if ! is_there "$product"; then
            refuse_start "$1" "$maker" "needs $product, which stage $maker makes"
        elif ((maker == 0 || maker > 4)) || [[ -z $mark ]]; then
            # A run may be evaluated while it trains; files without a mark are the user's own.
            continue
        elif [[ $mark == unfinished ]]; then
            refuse_start "$1" "$maker" "needs $product, and stage $maker was not finished"
        elif [[ $mark != "${KEY[$maker]}" ]]; then
            refuse_start "$1" "$maker" "needs $product, and stage $maker made it with other settings"
        fi
    done
}

# refuse_start STAGE MAKER WHY
refuse_start() {
    fail "stage $1 $3: run with --stage $2"
}

# Before a forced redo: delete what the stage made, which its program might take up again.
discard_output() {
    local mark
    (($1 <= 4)) && leaves_mark "$1" || return 0
    mark=$(stage_mark "$1")
    [[ -f $mark ]] || return 0
    # What was found out about audio files stays: it is only believed of files that have not changed.
    find "$(dirname -- "$mark")" -mindepth 1 -maxdepth 1 ! -name probes.jsonl -exec rm -rf -- {} +
}
