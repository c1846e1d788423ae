#!/usr/bin/env bash
# Your own recordings: MYDATA, here or in db.sh, is a CSV that lists them or a folder with one folder per class.
# Options: run.sh --help

# A scheduler's notice that comes before the driver can answer it is kept for it, also while db.sh runs.
trap 'export AUDIOTAG_NOTICED=yes' USR1
set -euo pipefail

RECIPE_DIR=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source=db.sh
source "$RECIPE_DIR/../../db.sh"

export AUDIOTAG_RECIPE_DIR=$RECIPE_DIR
export RECIPE_TITLE="your own recordings, from a CSV or a folder per class"
export RECIPE_CONFIG=conf/ast_tiny.yaml
# The driver works in the recipe's folder; a relative path is meant from where the user calls.
[[ -z $MYDATA || $MYDATA == /* ]] || MYDATA=$PWD/$MYDATA
export RECIPE_CORPUS=$MYDATA
export RECIPE_GENERATES=no
export RECIPE_NOISE=$MUSAN

exec "$BASH" "$RECIPE_DIR/../../run.sh" "$@"
