#!/usr/bin/env bash
# AudioSet: 527 classes, about two million clips of 10 s. AUDIOSET in db.sh says where the audio is.
# Options: run.sh --help

# A scheduler's notice that comes before the driver can answer it is kept for it, also while db.sh runs.
trap 'export AUDIOTAG_NOTICED=yes' USR1
set -euo pipefail

RECIPE_DIR=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source=db.sh
source "$RECIPE_DIR/../../db.sh"

export AUDIOTAG_RECIPE_DIR=$RECIPE_DIR
export RECIPE_TITLE="AudioSet, 527 classes"
export RECIPE_CONFIG=conf/ast_balanced.yaml
export RECIPE_CORPUS=$AUDIOSET
export RECIPE_GENERATES=no
export RECIPE_NOISE=$MUSAN

exec "$BASH" "$RECIPE_DIR/../../run.sh" "$@"
