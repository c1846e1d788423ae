#!/usr/bin/env bash
# Stage 0 of as20k: the corpus is AudioSet's, and so are the lists. local/data.sh FOLDER
set -euo pipefail

exec "$BASH" "$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)/../../audioset/local/data.sh" "$@"
