#!/usr/bin/env bash
# Stage 0 of speechcommands: check the folder of the corpus; an empty one is filled from its own address.
# local/data.sh FOLDER
# Variables: SPEECHCOMMANDS_URL (TensorFlow's public address), PYTHON (python3).
set -euo pipefail

readonly URL=${SPEECHCOMMANDS_URL:-https://storage.googleapis.com/download.tensorflow.org/data/speech_commands_v0.02.tar.gz}
# As torchaudio publishes it for that address.
readonly SHA256=af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58

main() {
    local folder=$1 name checksum=()
    [[ -n ${SPEECHCOMMANDS_URL:-} ]] || checksum=("$SHA256")
    [[ -n $folder ]] || fail "SPEECHCOMMANDS is not set: write the folder of your copy into db.sh, or run" \
        "SPEECHCOMMANDS=/path/to/speech_commands_v0.02 ./run.sh --recipe speechcommands; it has a folder for" \
        "each word and two lists of clips, and an empty one is filled (2.4 GB to fetch)"
    [[ -d $folder ]] ||
        fail "SPEECHCOMMANDS=$folder is not a folder (see db.sh); make an empty one to have the corpus fetched"
    if [[ -z $(find -L "$folder" -mindepth 1 ! -path '*/.fetched*' -print -quit) ]]; then
        "${PYTHON:-python3}" "$(dirname -- "$0")/../../../local/fetch_archive.py" \
            "$URL" "$folder" testing_list.txt "${checksum[@]}" || exit
    fi
    for name in validation_list.txt testing_list.txt; do
        [[ -f $folder/$name ]] ||
            fail "SPEECHCOMMANDS=$folder has no $name: it is not the folder of Speech Commands, or not all of it"
    done
    printf '%s\n' "Speech Commands in $folder"
}

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}

main "${1-}"
