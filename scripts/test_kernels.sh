#!/usr/bin/env bash
# The kernels without a GPU: in Triton's interpreter, and compiled for the GPUs they are meant for. A process each.
# Usage: bash scripts/test_kernels.sh [options of pytest]
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

prepare "$@" # sets `arguments`; ends here with --install-only
cd "$root"
say "Kernels in Triton's interpreter"
TRITON_INTERPRET=1 EGRC_KERNELS=triton "$venv/bin/python" -P -m pytest -n 2 --dist loadfile tests/kernels/interpreted ${arguments[@]+"${arguments[@]}"}
say "Kernels compiled for sm_80, sm_90, sm_100 and gfx942"
EGRC_COMPILE_GATE=1 "$venv/bin/python" -P -m pytest tests/kernels/compiled ${arguments[@]+"${arguments[@]}"}
