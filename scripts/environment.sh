# shellcheck shell=bash
# Sourced by quickstart.sh and test.sh: makes .venv in the repository's root with the pinned versions, once.
# Usage: . scripts/environment.sh; prepare "$@"

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="$root/.venv"
. "$root/scripts/torch.sh" # sets `torch_version`
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

say() { printf '\n== %s\n' "$*"; }

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.12 python3.11 python3 python3.13; do
        if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "egrc: error: Python 3.11 or newer is needed; install it, or name it with PYTHON=/path/to/python" >&2
    exit 1
}

install_torch() {
    say "Installing torch $torch_version"
    if command -v nvidia-smi >/dev/null; then
        "$venv/bin/pip" install --quiet --constraint "$root/scripts/constraints.txt" "torch==$torch_version"
    else
        install_cpu_torch "$venv/bin/python" --constraint "$root/scripts/constraints.txt"
    fi
}

ensure_environment() {
    local stamp="$venv/.installed" wanted python
    wanted="$(cat "$root"/scripts/{constraints.txt,environment.sh,torch.sh} "$root"/{setup.py,pyproject.toml} | cksum) $root"
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
        say "Environment $venv is up to date"
        return
    fi
    python="$(find_python)"
    say "Making the environment $venv with $("$python" --version)"
    "$python" -m venv "$venv"
    install_torch
    say "Installing egrc_mega and its other dependencies (pins: scripts/constraints.txt)"
    "$venv/bin/pip" install --quiet --constraint "$root/scripts/constraints.txt" --editable "${root}[dev]"
    echo "$wanted" >"$stamp"
}

prepare() {
    local argument install_only=false
    arguments=()
    for argument in "$@"; do
        if [ "$argument" = --install-only ]; then install_only=true; else arguments+=("$argument"); fi
    done
    ensure_environment
    if $install_only; then exit 0; fi
}
