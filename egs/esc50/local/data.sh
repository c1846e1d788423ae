#!/usr/bin/env bash
# Stage 0 of esc50: check the folder of the corpus; an empty one is filled from the corpus' own address.
# local/data.sh FOLDER
# Variables: ESC50_URL (its repository at GitHub), PYTHON (python3).
set -euo pipefail

readonly URL=${ESC50_URL:-https://github.com/karolpiczak/ESC-50/archive/master.zip}

main() {
    local folder=$1
    [[ -n $folder ]] || fail "ESC50 is not set: write the folder of your copy into db.sh, or run" \
        "ESC50=/path/to/ESC-50 ./run.sh --recipe esc50; it has meta/esc50.csv and audio/, and an empty one is" \
        "filled (600 MB to fetch)"
    [[ -d $folder ]] || fail "ESC50=$folder is not a folder (see db.sh); make an empty one to have the corpus fetched"
    if [[ -z $(find -L "$folder" -mindepth 1 ! -path '*/.fetched*' -print -quit) ]]; then
        "${PYTHON:-python3}" "$(dirname -- "$0")/../../../local/fetch_archive.py" "$URL" "$folder" meta || exit
    fi
    [[ -f $folder/meta/esc50.csv && -d $folder/audio ]] ||
        fail "ESC50=$folder has no meta/esc50.csv or no audio/: it is not the folder of ESC-50, or not all of it"
    printf '%s\n' "ESC-50 in $folder"
}

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}

main "${1-}"
