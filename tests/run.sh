#!/usr/bin/env bash
# Set up the environment with the tests' extra, then run the tests without the slow ones.
# Arguments go to pytest: tests/run.sh -k driver; tests/run.sh -m '' runs everything.
set -euo pipefail

ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
readonly ROOT
# shellcheck source=local/log.sh
source "$ROOT/local/log.sh"
# shellcheck source=local/lock.sh
source "$ROOT/local/lock.sh"
# shellcheck source=local/process.sh
source "$ROOT/local/process.sh"
# shellcheck source=local/output.sh
source "$ROOT/local/output.sh"
# shellcheck source=local/allocation.sh
source "$ROOT/local/allocation.sh"
# shellcheck source=local/requeue.sh
source "$ROOT/local/requeue.sh"
# shellcheck source=local/environment.sh
source "$ROOT/local/environment.sh"

trap_signals
find_python test
trap - INT TERM HUP

cd -- "$ROOT"
export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH}
# The tests' models are too small for several threads to pay.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec "$PYTHON" -m pytest -m 'not slow' "$@"
