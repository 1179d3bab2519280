#!/usr/bin/env bash
# What one GPU can say about this code, in one command: correctness, kernels, a training step, the peers.
#
#   [OUT=folder] [SECONDS_TOTAL=560] [WHEELS=folder] bash benchmarks/gpu_all.sh ["versions fused tests kernels ..."]
#
# Each part is a process with a limit of its own, cut to what is left of SECONDS_TOTAL: what hangs or crashes costs only
# itself. Figures are rows of $OUT/results.jsonl (benchmarks/results/<device> where OUT is unset), appended one by one;
# log.txt has what the parts printed, profile.txt where a step's time goes, table.txt the main figures, printed last.
# SIZES="32768x3584 32768x1536" chooses the kernels' inputs. Without a GPU everything runs at toy size; PATIENCE=20 makes
# the limits 20 times as long, for machines that do something else too.
#
# Needs torch, triton, transformers and pytest; the rest may come as wheels in WHEELS (.day/whl), fetched beforehand with
#   pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_28_x86_64 --platform \
#     manylinux_2_24_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 -d .day/whl \
#     megatron-core==0.16.1 math-verify==0.9.0 latex2sympy2_extended==1.11.0 antlr4-python3-runtime==4.13.2 \
#     pydantic==2.14.3 pydantic_core==2.50.4 annotated-types typing-inspection typing_extensions orjson liger-kernel
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
parts="${1:-versions fused probe tests kernels train mini liger small compiled peer sanitizer}"
python="${PYTHON:-python3}"
wheels="${WHEELS:-.day/whl}"
end=$((SECONDS + ${SECONDS_TOTAL:-560}))
declare -A limits=([versions]=40 [fused]=60 [probe]=40 [tests]=90 [kernels]=110 [train]=110 [mini]=110 [liger]=60
    [small]=60 [compiled]=120 [peer]=150 [sanitizer]=60 [hang]=3 [crash]=120)
scratch="$(mktemp -d)"
writer=""
trap '[ -z "$writer" ] || kill "$writer" 2>/dev/null; rm -rf "$scratch"' EXIT

if compgen -G "$wheels/*.whl" >/dev/null; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --target "$scratch/site" "$wheels"/*.whl ||
        echo "the wheels could not be installed: parts that need them will fail"
fi
export PYTHONPATH="$scratch/site:$PWD:$PWD/kernels:$PWD/benchmarks${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1
export PYTHONWARNINGS=ignore OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
export PYTORCH_ALLOC_CONF=expandable_segments:True MODEL="$scratch"
export TRITON_CACHE_DIR="$scratch/triton" TORCHINDUCTOR_CACHE_DIR="$scratch/inductor"
# one process and no network: nothing should look for an interface
export NCCL_SOCKET_IFNAME=lo GLOO_SOCKET_IFNAME=lo NCCL_IB_DISABLE=1 MASTER_ADDR=127.0.0.1
if [ -z "${OUT:-}" ]; then
    device="$("$python" -c "import torch; print(torch.cuda.get_device_name().lower().replace(' ', '-') if torch.cuda.is_available() else 'cpu-toy')")"
    OUT="benchmarks/results/$device"
fi
export OUT
mkdir -p "$OUT"
log="$OUT/log.txt"
nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,power.limit --format=csv 2>/dev/null | tee -a "$log"

part() { # name, command: run it under its limit, keep what it prints, and add a row of how it ended
    local name="$1" limit="${limits[$1]}" left=$((end - SECONDS)) began=$SECONDS code
    shift
    if [ "$name" != hang ]; then limit=$((limit * ${PATIENCE:-1})); fi
    if [ "$left" -lt "$((limit < 15 ? limit : 15))" ]; then
        echo "== $name: no time left" | tee -a "$log"
        printf '{"part": "%s", "name": "ended", "exit": "no time left"}\n' "$name" >>"$OUT/results.jsonl"
        return 1
    fi
    [ "$limit" -gt "$left" ] && limit="$left"
    printf '\n== %s, at most %s s\n' "$name" "$limit" | tee -a "$log"
    timeout -k 5 "$limit" "$@" >"$scratch/printed" 2>&1
    code=$?
    cat "$scratch/printed" >>"$log"
    if [ "$code" -ne 0 ]; then tail -n 12 "$scratch/printed" | cut -c1-300; fi
    printf '{"part": "%s", "name": "ended", "exit": %s, "seconds": %s}\n' "$name" "$code" "$((SECONDS - began))" |
        tee -a "$OUT/results.jsonl"
    return "$code"
}

case " $parts " in *" train "* | *" peer "*) # random numbers, on the CPU, beside the first parts
    "$python" benchmarks/gpu_parts.py model >"$scratch/model.txt" 2>&1 &
    writer=$!
    ;;
esac
export NO_FUSED=0
for name in $parts; do
    case "$name" in
    tests)
        chosen=()
        [ "$NO_FUSED" = 1 ] && chosen=(-k "not fused")
        part tests "$python" -m pytest -q -p no:cacheprovider --tb=short tests/gpu ${chosen[@]+"${chosen[@]}"}
        ;;
    sanitizer)
        if command -v compute-sanitizer >/dev/null; then
            PYTORCH_NO_CUDA_MEMORY_CACHING=1 part sanitizer compute-sanitizer --tool memcheck --error-exitcode 1 \
                "$python" -m pytest -q -p no:cacheprovider tests/gpu \
                -k "policy_loss or layer_parts or 16_bit or repeat"
        else
            echo "== sanitizer: compute-sanitizer is not here" | tee -a "$log"
            printf '{"part": "sanitizer", "name": "ended", "exit": "compute-sanitizer is not here"}\n' >>"$OUT/results.jsonl"
        fi
        ;;
    train | peer)
        if [ -n "$writer" ]; then wait "$writer" && cat "$scratch/model.txt" >>"$log"; writer=""; fi
        part "$name" "$python" benchmarks/gpu_parts.py "$name"
        ;;
    fused) part fused "$python" benchmarks/gpu_parts.py fused || export NO_FUSED=1 ;; # a hang must not cost the rest
    *) part "$name" "$python" benchmarks/gpu_parts.py "$name" ;;
    esac
done
printf '\n== %s s; rows are in %s\n' "$SECONDS" "$OUT/results.jsonl"
"$python" benchmarks/gpu_parts.py table | tee "$OUT/table.txt"
