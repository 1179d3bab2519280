#!/usr/bin/env bash
# Installs egrc_mega and runs linters, the type checker and the tests, but for those of scripts/test_programs.sh.
# Usage: bash scripts/test.sh [--install-only] [--full] [options of pytest]; where files of tests are named, they alone are run
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

prepare "$@" # sets `arguments`; ends here with --install-only
cd "$root"
if [[ " ${arguments[*]-} " != *" tests/"* ]]; then
    say "Lint"
    "$venv/bin/ruff" check .
    "$venv/bin/ruff" format --check .
    say "Types"
    "$venv/bin/mypy"
fi
say "Tests"
# a file's tests stay together, for they share worlds and servers
"$venv/bin/python" -P -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not program" ${arguments[@]+"${arguments[@]}"}
