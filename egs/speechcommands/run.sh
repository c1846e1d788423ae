#!/usr/bin/env bash
# Speech Commands V2: 105,829 recordings of 35 words, one second each.
# Options: run.sh --help

# A scheduler's notice that comes before the driver can answer it is kept for it, also while db.sh runs.
trap 'export AUDIOTAG_NOTICED=yes' USR1
set -euo pipefail

RECIPE_DIR=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source=db.sh
source "$RECIPE_DIR/../../db.sh"

export AUDIOTAG_RECIPE_DIR=$RECIPE_DIR
export RECIPE_TITLE="Speech Commands V2, 35 words"
export RECIPE_CONFIG=conf/ast_base.yaml
# The driver works in the recipe's folder; a relative path is meant from where the user calls.
[[ -z $SPEECHCOMMANDS || $SPEECHCOMMANDS == /* ]] || SPEECHCOMMANDS=$PWD/$SPEECHCOMMANDS
export RECIPE_CORPUS=$SPEECHCOMMANDS
export RECIPE_GENERATES=no
export RECIPE_NOISE=$MUSAN

exec "$BASH" "$RECIPE_DIR/../../run.sh" "$@"
