#!/usr/bin/env bash
# The contract and whole runs against a real, unmodified server of SGLang on the CPU. Builds its environment first.
# Usage: bash scripts/test_sglang.sh [options of pytest]      (under twenty minutes on two cores, install included)
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

prepare "$@" # sets `arguments`; ends here with --install-only
cd "$root"
bash scripts/serve_env.sh --device cpu
say "The contract and runs against SGLang"
EGRC_CONTRACT_SERVER=sglang "$venv/bin/python" -P -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests/contracts tests/sglang --timeout 600 ${arguments[@]+"${arguments[@]}"}
