#!/usr/bin/env bash
# Stage 0 of audioset: check the folder, fetch the official lists where they are missing. A folder of icefall's recipe,
# with cut manifests in data/fbank/, needs none.
# local/data.sh FOLDER
# Variables: AUDIOSET_LISTS_URL (Google's public address), PYTHON (python3).
set -euo pipefail

readonly URL=${AUDIOSET_LISTS_URL:-https://storage.googleapis.com/us_audioset/youtube_corpus/v1/csv}

main() {
    local folder=$1 name
    [[ -n $folder ]] || fail "AUDIOSET is not set: write the folder of your copy into db.sh, or run" \
        "AUDIOSET=/path/to/audioset ./run.sh --recipe audioset; audio files lie in its sub-folder audio/, at" \
        "any depth, each named by its YouTube id: audio/eval/--4gqARaEJE.wav"
    [[ -d $folder ]] || fail "AUDIOSET=$folder is not a folder (see db.sh)"
    if compgen -G "$folder/data/fbank/cuts_*.jsonl*" >/dev/null; then
        printf '%s\n' "$folder holds cut manifests, as icefall's recipe leaves them: nothing is fetched"
        return
    fi
    for name in class_labels_indices balanced_train_segments unbalanced_train_segments eval_segments; do
        [[ -s $folder/$name.csv ]] || fetch "$URL/$name.csv" "$folder/$name.csv"
    done
    printf '%s\n' "AudioSet in $folder: all lists are there"
}

# fetch URL FILE: download a list; the file appears only when it is whole.
fetch() {
    local part=$2.part.$$
    [[ -w ${2%/*} ]] || fail "$2 is missing, and its folder cannot be written: fetch $1 and put it there"
    if ! "${PYTHON:-python3}" "$(dirname -- "$0")/../../../local/fetch_file.py" "$1" "$part" || ! is_list "$part"; then
        rm -f -- "$part"
        fail "$1 could not be fetched (is this machine offline?): fetch it elsewhere and save it as $2"
    fi
    mv -- "$part" "$2"
}

# Whether a file begins as AudioSet's lists do, and not as some network's log-in page.
is_list() {
    local first
    read -r first <"$1" && [[ $first == '# Segments csv'* || $first == index,mid,display_name* ]]
}

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}

main "${1-}"
