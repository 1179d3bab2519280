"""Client load: thousands of requests in flight from one process, against a server that only answers.

The server, a process of its own, answers each request with 70 tokens after a log-normal latency. Measured: CPU of the
client per request, validation included; nothing may be lost; resident memory may not grow from round to round (after
malloc has given back what it holds free: without that it creeps up by less than a MiB a round, and is no leak).

Usage: python benchmarks/load.py [--requests 4096] [--rounds 20] [--tokens 70] [--latency 2.0]
"""

import argparse
import ctypes
import gc
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, median

import psutil

from egrc_mega.rollout.fleet import Fleet
from egrc_mega.sections.rollout import RolloutSection
from egrc_mega.types import RolloutRequest, Sampling, token_array

VOCAB_SIZE = 152_064


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=70)
    parser.add_argument("--latency", type=float, default=2.0, help="median seconds")
    parser.add_argument("--serve", type=float, metavar="LATENCY", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        _serve(arguments.serve)
        return
    print(json.dumps(_measure(arguments), indent=1))


def _measure(arguments: argparse.Namespace) -> dict[str, object]:
    command = [sys.executable, "-P", __file__, "--serve", str(arguments.latency)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    url = server.stdout.readline().strip()
    cpu_ms: list[float] = []
    memory_mib: list[float] = []
    peak = 0
    section = RolloutSection(server="external", urls=(url,))
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            Fleet.start(section, Path(folder), "v0", Path(folder), vocab_size=VOCAB_SIZE) as fleet,
        ):
            for number in range(arguments.rounds + 1):  # the first warms up
                requests = _requests(arguments, number)
                before = _cpu_s()
                completions = fleet.generate(requests)
                cpu_ms.append(1e3 * (_cpu_s() - before) / len(requests))
                assert [c.rid for c in completions] == [r.rid for r in requests]
                assert all(len(c.output_ids) == arguments.tokens for c in completions)
                stats = fleet.take_stats()
                assert stats["lost_requests"] == 0
                peak = max(peak, stats["requests_in_flight"])
                del completions, requests
                gc.collect()
                ctypes.CDLL(None).malloc_trim(0)
                memory_mib.append(psutil.Process().memory_info().rss / 2**20)
    finally:
        server.kill()
    half = len(memory_mib) // 2
    growth = fmean(memory_mib[-half:]) - fmean(memory_mib[1 : 1 + half])
    return {
        "requests": arguments.requests,
        "tokens": arguments.tokens,
        "in_flight_peak": peak,
        "client_cpu_ms_per_request_median": median(cpu_ms[1:]),
        "client_cpu_ms_per_request_worst": max(cpu_ms[1:]),
        "memory_mib": [round(value, 1) for value in memory_mib],
        "memory_growth_mib_between_halves": growth,
        "lost": 0,
        "holds": {
            "all in flight at once": peak == arguments.requests // 8 * 8,
            "at most 1 ms of CPU a request": median(cpu_ms[1:]) <= 1.0,
            "memory flat to 5 %": growth <= 0.05 * memory_mib[1],
        },
        "aiohttp": version("aiohttp"),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }


def _requests(arguments: argparse.Namespace, number: int) -> list[RolloutRequest]:
    sampling = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=arguments.tokens, stop_token_ids=(2,))
    prompt_ids = token_array(range(200))
    return [
        RolloutRequest(
            rid=f"round{number:03d}-{i:06d}", prompt_id=f"p{i // 8}", prompt_ids=prompt_ids, sampling=sampling, seed=i
        )
        for i in range(arguments.requests // 8 * 8)
    ]


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _serve(latency: float) -> None:
    import asyncio

    import orjson
    from aiohttp import web

    rng = random.Random(0)

    async def generate(request: web.Request) -> web.Response:
        body = orjson.loads(await request.read())
        await asyncio.sleep(latency * rng.lognormvariate(0, 0.5))
        count = body["sampling_params"]["max_new_tokens"]
        meta = {
            "id": body["rid"],
            "finish_reason": {"type": "length", "length": count},
            "prompt_tokens": len(body["input_ids"]),
            "cached_tokens": 0,
            "completion_tokens": count,
            "weight_version": "v0",
            "weight_versions": [{"version": "v0", "start": 0, "end": count}],
            "output_token_logprobs": [[-0.123456789 - i, 1000 + i, None] for i in range(count)],
        }
        reply = {"text": "", "output_ids": [1000 + i for i in range(count)], "meta_info": meta}
        return web.Response(body=orjson.dumps(reply), content_type="application/json")

    async def fine(_request: web.Request) -> web.Response:
        return web.json_response({"weight_version": "v0", "loads": []})

    async def run() -> None:
        app = web.Application()
        app.router.add_post("/generate", generate)
        for path in ("/health", "/model_info", "/v1/loads"):
            app.router.add_get(path, fine)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=8192)
        await site.start()
        print(f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}", flush=True)  # type: ignore[union-attr]
        await asyncio.Event().wait()

    asyncio.run(run())


if __name__ == "__main__":
    main()
