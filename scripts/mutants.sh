#!/usr/bin/env bash
# Breaks the code one line at a time, as tests/mutants.jsonl says, and asks the nearest tests whether they notice.
# Usage: bash scripts/mutants.sh [ids] [--jobs N] [--timeout-s S] [--mutants FILE] [--out FILE]
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

prepare "$@" # sets `arguments`; ends here with --install-only
cd "$root"
PYTHONPATH="$root:$root/kernels" "$venv/bin/python" -P -m egrc_mega.testing.mutants ${arguments[@]+"${arguments[@]}"}
