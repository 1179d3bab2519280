#!/usr/bin/env bash
# Everything that needs one GPU, in one go and under eight minutes: the GPU tests, a race check, the kernels at the sizes of
# the 1.5B and 7B models, a training step. Results go to benchmarks/results/<device>/ with versions.
# Usage: bash benchmarks/gpu_all.sh [output folder]      (needs torch with CUDA, triton; others from wheels/ if that exists)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python="${PYTHON:-python3}"
"$python" -c "import torch; assert torch.cuda.is_available(), 'no CUDA device: nothing to measure'"
if [ -d wheels ]; then "$python" -m pip install --quiet --no-deps --no-index wheels/*.whl; fi
export PYTHONPATH="$PWD:$PWD/kernels" PYTHONSAFEPATH=1
device="$("$python" -c "import torch; print(torch.cuda.get_device_name().lower().replace(' ', '-'))")"
out="${1:-benchmarks/results/$device}"
mkdir -p "$out"
egrc() { "$python" -m egrc_mega.cli.main "$@"; }

"$python" -m pytest -q -p no:cacheprovider tests/gpu 2>&1 | tee "$out/tests.txt" || echo "GPU tests failed" | tee -a "$out/tests.txt"
if command -v compute-sanitizer >/dev/null; then
    compute-sanitizer --tool racecheck --error-exitcode 1 "$python" -m pytest -q -p no:cacheprovider tests/gpu \
        -k "policy_loss or layer_parts" >"$out/racecheck.txt" 2>&1 || echo "race check failed" >>"$out/racecheck.txt"
else
    echo "compute-sanitizer is not here: races are not checked" >"$out/racecheck.txt"
fi
for tokens in 8192 32768; do
    for hidden in 1536 3584; do
        egrc bench kernels --op linear_logprob --tokens "$tokens" --hidden "$hidden" --rounds 7 \
            --out "$out/linear_logprob_${tokens}_$hidden" || true
    done
done
egrc bench kernels --op logprob --tokens 8192 --rounds 10 --out "$out/logprob_8192" || true
egrc bench kernels --op policy_loss,rmsnorm,swiglu,rope --tokens 32768 --rounds 50 --out "$out/others_32768" || true
"$python" benchmarks/train_step.py --rounds 5 --peak-tflops "${PEAK_TFLOPS:-989}" >"$out/train_step.json" || true
echo "results are in $out"
