"""One step ahead against synchronous steps: whole runs against a server that takes as long as training does.

The server answers each request, with tokens that teach nothing, after a fixed delay: the time that the training phase
took in a first, short run. Wall time per step is between the records of the steps.

Usage: python benchmarks/overlap.py [--steps 8] [--samples 384] [--rounds 2]
"""

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from egrc_mega.testing.fake_server import FakeServer
from egrc_mega.testing.runs import events

ROOT = Path(__file__).parent.parent
AHEAD = "rollout.mode=ahead"


class Babbler(FakeServer):
    """Answers with a seeded number of seeded tokens."""

    def reply(self, body: dict[str, Any]) -> dict[str, Any]:
        """As a function of the request alone."""
        rng = random.Random(body["sampling_params"]["sampling_seed"])
        ids = [rng.randrange(5, 30) for _ in range(rng.randrange(30, body["sampling_params"]["max_new_tokens"]))]
        meta = {
            "id": body["rid"],
            "finish_reason": {"type": "stop", "matched": 2},
            "completion_tokens": len(ids),
            "weight_versions": [{"version": self.version, "start": 0, "end": len(ids)}],
            "output_token_logprobs": [[-3.0, token, None] for token in ids],
        }
        return {"output_ids": ids, "meta_info": meta}


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--samples", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    with Babbler() as server, tempfile.TemporaryDirectory() as folder:
        first = _run(server, Path(folder) / "first", 3, arguments.samples)
        server.delay_s = median(step["time_train_s"] for step in first)
        seconds: dict[str, list[float]] = {"synchronous": [], "one_step_ahead": []}
        for number in range(arguments.rounds):  # in turn, for a shared machine's speed drifts
            plain = _run(server, Path(folder) / f"plain{number}", arguments.steps, arguments.samples)
            ahead = _run(server, Path(folder) / f"ahead{number}", arguments.steps, arguments.samples, AHEAD)
            seconds["synchronous"] += _seconds(plain)
            seconds["one_step_ahead"] += _seconds(ahead)
    share = median(seconds["one_step_ahead"]) / median(seconds["synchronous"])
    result = {
        "generation_s": server.delay_s,
        "train_s_median": median(step["time_train_s"] for step in plain),
        "seconds_per_step_median": {name: median(values) for name, values in seconds.items()},
        "share_of_synchronous": share,
        "loss_of_step_1": [plain[0]["loss"], ahead[0]["loss"]],
        "version_lag_max": max(step["version_lag_max"] for step in ahead),
        "holds": {
            "at most 0.6 of the synchronous time": share <= 0.6,
            "training and generation take 1 s or more": min(
                server.delay_s, median(step["time_train_s"] for step in plain)
            )
            >= 1.0,
            "the same loss on step 1": plain[0]["loss"] == ahead[0]["loss"],
        },
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }
    print(json.dumps(result, indent=1))


def _run(server: FakeServer, run_dir: Path, steps: int, samples: int, *more: str) -> Sequence[dict[str, Any]]:
    server.version = "v0"
    stage = f"[{{name: explore, steps: {steps}, clip_len: 40, rollout: {{n: 8}}, loss: {{tis_cap: 2}}}}]"
    overrides = (
        f"run.dir={run_dir}",
        f"stages={stage}",
        "rollout.server=external",
        f"rollout.urls=[{server.url}]",
        f"rollout.prompts_per_step={samples // 8}",
        "rollout.environment=null",
        "policy.logprob_check=false",
        "evaluation.num_problems=1",
        "checkpoint.every=1000",
        *more,
    )
    command = [sys.executable, "-P", "-m", "egrc_mega.cli.main", "train", "-c", str(ROOT / "configs/quickstart.yaml")]
    for override in overrides:
        command += ["--set", override]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=600)
    return events(run_dir, "step")


def _seconds(steps: Sequence[dict[str, Any]]) -> list[float]:
    """Between the records, without the first step, which has nothing before it."""
    return [later["time"] - earlier["time"] for earlier, later in pairwise(steps)]


if __name__ == "__main__":
    main()
