"""The host's work on servers' replies at the size of a 7B explore step: read and validated, against orjson.loads alone.

2,048 responses of 6.4 million tokens in all, log-normal, no longer than 8192. Both are measured in turn, reply by reply
over the same bytes, with everything that a run does between the body of a reply and its completion.

Usage: python benchmarks/host_path_replies.py [--responses 2048] [--tokens 6400000] [--cap 8192] [--rounds 3]
"""

import argparse
import json
import os
import platform
import resource
import time
from collections.abc import Callable
from importlib.metadata import version
from statistics import median

import numpy as np
import orjson

from egrc_mega.rollout.wire import parse_generation, read_generation
from egrc_mega.types import Completion, RolloutRequest, Sampling, token_array

VOCAB_SIZE = 152_064
LOG_STD = 0.8
"""Of the lengths' logarithm."""
MOST_RATIO, MOST_RSS_GIB = 1.6, 1.5


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--responses", type=int, default=2048)
    parser.add_argument("--tokens", type=int, default=6_400_000, help="of all responses together")
    parser.add_argument("--cap", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    lengths = lengths_of(arguments.responses, arguments.tokens, arguments.cap)
    print(json.dumps(measure_replies(lengths, arguments.cap, arguments.rounds), indent=1))


def measure_replies(lengths: np.ndarray, cap: int, rounds: int) -> dict[str, object]:
    """Seconds of both, their ratio in each round, and this process's largest memory so far.

    Args:
        lengths: int64[N], tokens of each response.
    """
    rng = np.random.default_rng(0)
    raws = [_reply(rng, f"r{i}", length) for i, length in enumerate(lengths.tolist())]
    requests = [_request(f"r{i}", cap) for i in range(len(raws))]
    loads_s: list[float] = []
    parse_s: list[float] = []
    for _ in range(rounds):  # in turn, for a shared machine's speed drifts
        loads_s.append(_seconds(lambda: [orjson.loads(raw) and None for raw in raws]))
        parse_s.append(_seconds(lambda: _parsed(raws, requests)))
    ratio = median(parse / loads for parse, loads in zip(parse_s, loads_s, strict=True))
    completions = _parsed(raws, requests)
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "responses": len(raws),
        "tokens": sum(len(completion.output_ids) for completion in completions),
        "longest": int(lengths.max()),
        "bytes": sum(map(len, raws)),
        "orjson_loads_s_median": median(loads_s),
        "parse_and_validate_s_median": median(parse_s),
        "parse_over_loads": ratio,
        "peak_rss_gib": peak_gib,
        "holds": {
            f"replies are parsed in at most {MOST_RATIO:g} x the time of orjson.loads": ratio <= MOST_RATIO,
            f"at most {MOST_RSS_GIB:g} GiB of memory": peak_gib <= MOST_RSS_GIB,
        },
        "versions": {name: version(name) for name in ("orjson", "numpy", "pydantic")},
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }


def lengths_of(num_responses: int, num_tokens: int, cap: int) -> np.ndarray:
    """int64[N] log-normal lengths, no longer than `cap`, whose mean is `num_tokens / num_responses` to a percent."""
    drawn = np.random.default_rng(0).lognormal(0.0, LOG_STD, num_responses)
    low, high = 0.0, float(cap)
    while high - low > 1e-3 * high:  # what is cut at the cap must be made up for by the rest
        middle = (low + high) / 2
        is_short = np.minimum(drawn * middle, cap).sum() < num_tokens
        low, high = (middle, high) if is_short else (low, middle)
    return np.clip(drawn * high, 1, cap).astype(np.int64)


def _reply(rng: np.random.Generator, rid: str, length: int) -> bytes:
    """The bytes that SGLang sends: float32 log-probs written as doubles, ids, and no texts."""
    ids = rng.integers(0, VOCAB_SIZE, length).tolist()
    logprobs = (-rng.exponential(0.5, length)).astype(np.float32).tolist()
    meta = {
        "id": rid,
        "finish_reason": {"type": "stop", "matched": ids[-1]},
        "prompt_tokens": 200,
        "cached_tokens": 0,
        "completion_tokens": length,
        "weight_version": "v0",
        "weight_versions": [{"version": "v0", "start": 0, "end": length}],
        "output_token_logprobs": [[value, token, None] for value, token in zip(logprobs, ids, strict=True)],
    }
    return orjson.dumps({"text": "", "output_ids": ids, "meta_info": meta})


def _request(rid: str, cap: int) -> RolloutRequest:
    sampling = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=cap, stop_token_ids=(2,))
    return RolloutRequest(rid=rid, prompt_id="p", prompt_ids=token_array([1]), sampling=sampling, seed=0)


def _parsed(raws: list[bytes], requests: list[RolloutRequest]) -> list[Completion]:
    return [
        parse_generation(read_generation(raw), request, "http://server", VOCAB_SIZE)[0]
        for raw, request in zip(raws, requests, strict=True)
    ]


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
