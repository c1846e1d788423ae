#!/usr/bin/env bash
# Stage 0 of mydata: check that the user's corpus is there. local/data.sh FOLDER_OR_CSV
set -euo pipefail

main() {
    local corpus=$1
    [[ -n $corpus ]] || fail "MYDATA is not set: write it into db.sh, or run MYDATA=/path/to/list.csv" \
        "./run.sh --recipe mydata; it is a CSV with the columns path,labels[,start,end,split], or a folder" \
        "with one folder of audio files for each class (egs/mydata/README.md)"
    if [[ -d $corpus ]]; then
        [[ -r $corpus && -x $corpus ]] || fail "the folder MYDATA=$corpus cannot be read: check its permissions"
        [[ -n $(find -L "$corpus" -mindepth 1 -print -quit 2>/dev/null) ]] || fail "the folder MYDATA=$corpus is empty"
        printf '%s\n' "the corpus is in the folder $corpus"
    elif [[ -f $corpus ]]; then
        [[ -r $corpus ]] || fail "the list MYDATA=$corpus cannot be read: check its permissions"
        [[ -s $corpus ]] || fail "the list MYDATA=$corpus is empty"
        printf '%s\n' "the corpus is listed in $corpus"
    else
        fail "MYDATA=$corpus is neither a folder nor a file (see db.sh)"
    fi
}

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}

main "${1-}"
