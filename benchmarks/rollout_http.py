"""Rollouts over HTTP against the model's own share, side by side in one run: 128 requests of 70 tokens.

Usage: python benchmarks/rollout_http.py [--requests 128] [--tokens 70] [--rounds 5]
"""

import argparse
import json
import platform
import resource
import shutil
import tempfile
import time
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from statistics import median

import torch
from transformers import AutoModelForCausalLM

from egrc_mega.data.render import Renderer
from egrc_mega.data.tokenizer import load_tokenizer
from egrc_mega.miniature.dataset import eval_problems
from egrc_mega.rollout.fleet import Fleet
from egrc_mega.sections.rollout import RolloutSection
from egrc_mega.types import IntArray, Problem, RolloutRequest, Sampling

BASE = Path(__file__).parent.parent / "egrc_mega" / "miniature" / "assets" / "base"


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=70)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    prompts = _prompts(arguments.requests)
    http, model, cpu_s = [], [], 0.0
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = _endless_copy(scratch / "model")
        fleet = stack.enter_context(Fleet.start(RolloutSection(), folder, "v0", scratch))
        generator = AutoModelForCausalLM.from_pretrained(folder)
        for number in range(arguments.rounds + 1):
            before = resource.getrusage(resource.RUSAGE_SELF)
            http.append(_http_round(fleet, prompts, arguments.tokens, number))
            after = resource.getrusage(resource.RUSAGE_SELF)
            cpu_s += after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime if number else 0.0
            model.append(_model_round(generator, prompts, arguments.tokens))
    # the first round warms up
    http, model = http[1:], model[1:]
    result = {
        "requests": arguments.requests,
        "tokens": arguments.tokens,
        "http_s_median": median(http),
        "http_s_worst": max(http),
        "generate_s_median": median(model),
        "http_over_generate": median(h / m for h, m in zip(http, model, strict=True)),
        "client_cpu_ms_per_request": 1000 * cpu_s / arguments.rounds / arguments.requests,
        "versions": {name: version(name) for name in ("torch", "transformers", "aiohttp")},
        "python": platform.python_version(),
        "machine": platform.processor() or platform.machine(),
    }
    print(json.dumps(result, indent=1))


def _endless_copy(folder: Path) -> Path:
    """The base model without an end-of-sequence token: every request runs to its cap."""
    shutil.copytree(BASE, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": None}))
    return folder


def _prompts(count: int) -> list[IntArray]:
    renderer = Renderer(load_tokenizer(BASE), "")
    problems = eval_problems()[:count]
    return [renderer.prompt_ids(Problem(key=str(i), text=p.text(), answer=p.answer())) for i, p in enumerate(problems)]


def _http_round(fleet: Fleet, prompts: list[IntArray], tokens: int, number: int) -> float:
    """Seconds for all requests; nothing stops them but the cap."""
    sampling = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=tokens, stop_token_ids=())
    requests = [
        RolloutRequest(rid=f"round{number}-{i:04d}", prompt_id=str(i), prompt_ids=prompt, sampling=sampling, seed=i)
        for i, prompt in enumerate(prompts)
    ]
    started = time.perf_counter()
    completions = fleet.generate(requests)
    elapsed = time.perf_counter() - started
    assert {len(completion.output_ids) for completion in completions} == {tokens}
    return elapsed


def _model_round(model: torch.nn.Module, prompts: list[IntArray], tokens: int) -> float:
    """Seconds of transformers' own `generate` on the same prompts as one left-padded batch."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, prompt in enumerate(prompts):
        ids[i, width - len(prompt) :] = torch.tensor(prompt)
        mask[i, width - len(prompt) :] = 1
    started = time.perf_counter()
    model.generate(
        ids, attention_mask=mask, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=True, pad_token_id=0
    )
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
