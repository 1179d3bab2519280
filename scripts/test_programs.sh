#!/usr/bin/env bash
# Benchmarks, the script of a day with a GPU, and runs of every method, of two cycles and of a killed trainer: each as a
# whole, at its smallest size.
# Usage: bash scripts/test_programs.sh [options of pytest]
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

prepare "$@" # sets `arguments`; ends here with --install-only
cd "$root"
say "Benchmarks, the GPU's script, and runs of every method, of two cycles and of a killed trainer"
"$venv/bin/python" -P -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m program ${arguments[@]+"${arguments[@]}"}
