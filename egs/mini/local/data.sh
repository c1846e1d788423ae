#!/usr/bin/env bash
# Stage 0 of mini: generate the corpus in AudioSet's layout. local/data.sh FOLDER
# Variables: MINI_SEED (0), MINI_TRAIN_CLIPS (400), MINI_EVAL_CLIPS (120), PYTHON (python3).
set -euo pipefail

exec "${PYTHON:-python3}" -m audiotag.bin.synthesize --dest "$1" --seed "${MINI_SEED:-0}" \
    --train-clips "${MINI_TRAIN_CLIPS:-400}" --eval-clips "${MINI_EVAL_CLIPS:-120}"
