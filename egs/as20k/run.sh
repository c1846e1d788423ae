#!/usr/bin/env bash
# AS-20K: BEATs fine-tuned on AudioSet's balanced list. AUDIOSET and BEATS_CHECKPOINT in db.sh say where the audio and
# the pre-trained model are.
# Options: run.sh --help

# A scheduler's notice that comes before the driver can answer it is kept for it, also while db.sh runs.
trap 'export AUDIOTAG_NOTICED=yes' USR1
set -euo pipefail

RECIPE_DIR=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source=db.sh
source "$RECIPE_DIR/../../db.sh"

export AUDIOTAG_RECIPE_DIR=$RECIPE_DIR
export RECIPE_TITLE="AS-20K: AudioSet's balanced list, 527 classes"
export RECIPE_CONFIG=conf/beats_iter3_plus.yaml
export RECIPE_CORPUS=$AUDIOSET
export RECIPE_GENERATES=no
export RECIPE_NOISE=$MUSAN

exec "$BASH" "$RECIPE_DIR/../../run.sh" "$@"
