#!/usr/bin/env bash
# Builds .venv-serve, the environment of SGLang's servers: its pins clash with the trainer's, so it has one of its own.
# Usage: bash scripts/serve_env.sh [--device cpu|cuda]
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
device=cpu
while [ $# -gt 0 ]; do
    case "$1" in
        --device) device="${2:-}"; shift 2 ;;
        *) echo "serve_env.sh: unknown argument $1; usage: serve_env.sh [--device cpu|cuda]" >&2; exit 2 ;;
    esac
done
case "$device" in cpu | cuda) ;; *) echo "serve_env.sh: --device must be cpu or cuda, not '$device'" >&2; exit 2 ;; esac
lock="$root/scripts/serve/$device.lock"
venv="$root/.venv-serve"
wanted="$device $(sha256sum <"$lock" | cut -d' ' -f1)"
if [ -f "$venv/installed" ] && [ "$(cat "$venv/installed")" = "$wanted" ]; then
    echo "== $venv is up to date ($device)"
    exit 0
fi
echo "== Making $venv for SGLang on $device"
rm -rf "$venv"
"${PYTHON:-python3}" -m venv "$venv"
install() { "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
if [ "$device" = cpu ]; then
    . "$root/scripts/torch.sh"
    install_cpu_torch "$venv/bin/python"
    install --requirement "$lock"
    # sglang pins a CUDA torch and dozens of CUDA packages that a CPU server never imports
    install --no-deps torchvision==0.28.0 sglang==0.5.23
else
    install --requirement "$lock"
fi
"$venv/bin/python" -c "from importlib.metadata import version; print('== SGLang', version('sglang'), 'is there')"
echo "$wanted" >"$venv/installed"
