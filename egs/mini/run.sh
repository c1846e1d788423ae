#!/usr/bin/env bash
# The embedded recipe: a small generated corpus, all stages, a few minutes on a CPU.
# Options: run.sh --help

# A scheduler's notice that comes before the driver can answer it is kept for it, also while db.sh runs.
trap 'export AUDIOTAG_NOTICED=yes' USR1
set -euo pipefail

RECIPE_DIR=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source=db.sh
source "$RECIPE_DIR/../../db.sh"

export AUDIOTAG_RECIPE_DIR=$RECIPE_DIR
export RECIPE_TITLE="a small generated corpus in AudioSet's layout"
export RECIPE_CONFIG=conf/ast_tiny.yaml
export RECIPE_CORPUS=corpus
export RECIPE_GENERATES=yes
export RECIPE_VARIABLES="MINI_SEED MINI_TRAIN_CLIPS MINI_EVAL_CLIPS"
export RECIPE_NOISE=$MUSAN

exec "$BASH" "$RECIPE_DIR/../../run.sh" "$@"
