#!/usr/bin/env bash
# Benchmarks, and the script of a day with a GPU, from beginning to end at their smallest size.
# Usage: bash scripts/test_programs.sh [options of pytest]
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

prepare "$@" # sets `arguments`; ends here with --install-only
cd "$root"
say "Benchmarks and the GPU's script"
"$venv/bin/python" -P -m pytest -m program ${arguments[@]+"${arguments[@]}"}
