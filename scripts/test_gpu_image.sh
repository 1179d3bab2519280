#!/usr/bin/env bash
# The GPU image's versions (Python 3.12 and scripts/gpu_image.txt) on a machine without a GPU: kernels' references, Triton's
# interpreter, the compile gate with that Triton's table, the policy, the benchmarks' walk-through, and the miniature trains.
# Builds .venv-gpu-image once (4.4 GB of wheels); without a Python 3.12 it says so and skips.
# Usage: bash scripts/test_gpu_image.sh [--install-only]
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="$root/.venv-gpu-image"
pins="$root/scripts/gpu_image.txt"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" PYTHONPATH="$root:$root/kernels"
say() { printf '\n== %s\n' "$*"; }

case "${1:-}" in "" | --install-only) ;; *) echo "test_gpu_image.sh: unknown argument $1; usage: test_gpu_image.sh [--install-only]" >&2; exit 2 ;; esac

find_python_3_12() {
    local candidate
    for candidate in "${PYTHON:-}" python3.12 python3 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12*/bin/python3.12; do
        if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    if command -v uv >/dev/null && uv python find --no-python-downloads 3.12 2>/dev/null; then return; fi
    return 1
}

install_environment() {
    local stamp="$venv/.installed" wanted python name constraints="$venv/constraints.txt"
    wanted="$(cat "$pins" "$root/scripts/constraints.txt" "$root/setup.py" | cksum) $root"
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
        say "Environment $venv is up to date"
        return
    fi
    if ! python="$(find_python_3_12)"; then
        say "SKIPPED: there is no Python 3.12 here. Install one (a package, pyenv or uv) or name it with PYTHON=/path/to/python3.12"
        exit 0
    fi
    if [ "$(df -Pk "$root" | awk 'NR == 2 {print $4}')" -lt 16000000 ]; then
        echo "test_gpu_image.sh: the environment and its wheels take 16 GB, and less is free at $root" >&2
        exit 1
    fi
    say "Making the environment $venv with $("$python" --version): 4.4 GB of wheels"
    rm -rf "$venv"
    "$python" -m venv "$venv"
    # the tested set, but for what the image has another version of, and what that asks for
    cp "$root/scripts/constraints.txt" "$constraints"
    for name in $(sed -n 's/==.*//p' "$pins") tokenizers huggingface_hub fsspec; do sed -i "/^$name==/d" "$constraints"; done
    cat "$pins" >>"$constraints"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-cache-dir --constraint "$constraints" \
        torch triton transformers numpy
    "$venv/bin/pip" install --quiet --disable-pip-version-check --constraint "$constraints" --editable "${root}[dev]"
    echo "$wanted" >"$stamp"
}

# what hangs is ended: by the processor time of a process, and, where it waits for nothing, after hours. How long a busy
# machine takes is no verdict
cpu_limit_s=3600 hang_limit_s=14400
failed=()
check() { # what, command: run all of them, whatever fails
    say "$1"
    local began=$SECONDS
    if (ulimit -t "$cpu_limit_s" && exec timeout -k 30 "$hang_limit_s" "${@:2}"); then echo "== passed in $((SECONDS - began)) s: $1"; else failed+=("$1"); fi
}

install_environment
if [ "${1:-}" = --install-only ]; then exit 0; fi
cd "$root"
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
python="$venv/bin/python"
"$python" -c "
import sys, torch, triton, transformers, numpy
print('== Python', sys.version.split()[0], 'torch', torch.__version__, 'triton', triton.__version__, 'transformers', transformers.__version__, 'numpy', numpy.__version__)"
tests=("$python" -P -m pytest -q -p no:cacheprovider --timeout "$cpu_limit_s")
check "The kernels' references" "${tests[@]}" tests/kernels
check "Kernels in Triton's interpreter" env TRITON_INTERPRET=1 EGRC_KERNELS=triton "${tests[@]}" tests/kernels/interpreted
check "Kernels compiled for sm_80, sm_90, sm_100 and gfx942" env EGRC_COMPILE_GATE=1 "${tests[@]}" tests/kernels/compiled
check "The policy" "${tests[@]}" tests/policy
check "The benchmarks, gpu_all.sh's walk-through among them" "${tests[@]}" tests/bench tests/test_benchmarks.py
check "egrc doctor" "$venv/bin/egrc" doctor
check "The miniature trains" "$venv/bin/egrc" train --config configs/quickstart.yaml --fresh \
    --set "run.dir=$scratch/run" --set stages.compress.steps=4 --set stages.explore.steps=4
if [ "${#failed[@]}" -gt 0 ]; then
    printf '\n== FAILED: %s\n' "${failed[@]}"
    exit 1
fi
say "All passed in $SECONDS s"
