#!/usr/bin/env bash
# Installs egrc_mega and trains the miniature end to end on this machine: base, compress, explore, export, report.
# Usage: bash scripts/quickstart.sh [--install-only] [options of `egrc train`, e.g. --set run.seed=2]
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

prepare "$@" # sets `arguments`; ends here with --install-only
say "Training the miniature (about two to five minutes)"
"$venv/bin/egrc" train --config "$root/configs/quickstart.yaml" --fresh ${arguments[@]+"${arguments[@]}"}
