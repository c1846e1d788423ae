#!/usr/bin/env bash
# ESC-50: 2,000 clips of 50 kinds of sound in five folds, each of which is evaluated on in turn.
# Options: run.sh --help

# A scheduler's notice that comes before the driver can answer it is kept for it, also while db.sh runs.
trap 'export AUDIOTAG_NOTICED=yes' USR1
set -euo pipefail

RECIPE_DIR=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source=db.sh
source "$RECIPE_DIR/../../db.sh"

export AUDIOTAG_RECIPE_DIR=$RECIPE_DIR
export RECIPE_TITLE="ESC-50, 50 classes, cross-validation over five folds"
export RECIPE_CONFIG=conf/ast_base.yaml
# The driver works in the recipe's folder; a relative path is meant from where the user calls.
[[ -z $ESC50 || $ESC50 == /* ]] || ESC50=$PWD/$ESC50
export RECIPE_CORPUS=$ESC50
export RECIPE_GENERATES=no
export RECIPE_FOLDS=5
export RECIPE_NOISE=$MUSAN

exec "$BASH" "$RECIPE_DIR/../../run.sh" "$@"
