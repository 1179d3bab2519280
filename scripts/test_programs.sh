#!/usr/bin/env bash
# Benchmarks, the script of a day with a GPU, and a run of every method, from beginning to end at their smallest size.
# Usage: bash scripts/test_programs.sh [options of pytest]
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

prepare "$@" # sets `arguments`; ends here with --install-only
cd "$root"
say "Benchmarks, the GPU's script and every method"
"$venv/bin/python" -P -m pytest -m program ${arguments[@]+"${arguments[@]}"}
