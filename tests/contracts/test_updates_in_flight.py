"""Weights that move under requests in flight, again and again: which tokens are whose, and what the trainer finds.

Fifty updates of SGLang's server (scripts/test_sglang.sh), a few of ours. Every version differs from the one before by
far more than the log-prob gate lets pass, and all requests share a prompt that is longer than what a server caches at
least: a label, a key or a value of other weights than it is said to be would stop the gate.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from egrc_mega.convert.families.registry import read_architecture
from egrc_mega.policy.pass_sums import TokenStats
from egrc_mega.rollout.fleet import Fleet
from egrc_mega.rollout.stream import Stream, complete
from egrc_mega.sections.policy import PolicySection
from egrc_mega.sections.rollout import Cache, RolloutSection
from egrc_mega.sync.disk import DiskSync
from egrc_mega.sync.transport import Verified
from egrc_mega.testing.samples import make_group, make_sample
from egrc_mega.training.batch import scored_only
from egrc_mega.training.gate import LogprobGate
from egrc_mega.types import Completion, RolloutRequest, Sampling, TrainSample, token_array

IS_EMBEDDED = os.environ.get("EGRC_CONTRACT_SERVER", "embedded") == "embedded"
NUM_UPDATES = 6 if IS_EMBEDDED else 50
NUM_OPEN, NUM_LAST = 8, 24
"""Requests in flight, and after the last update: those make enough tokens for a distribution, whatever went before."""
PROMPT_IDS = token_array([1, 5, 9, 12] * 5)
SAMPLING = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=200, stop_token_ids=())


def version_of(number: int) -> str:
    return f"v{number}"


class Model:
    """A folder's, of which every version has other weights."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.architecture = folder, read_architecture(folder)
        base = load_file(folder / "model.safetensors")
        self.base = {name: base[name] for name, _shape in self.architecture.hf_shapes() if name in base}
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def weights(self, number: int) -> dict[str, torch.Tensor]:
        """Of a version: every matrix and every norm is elsewhere."""
        noise = torch.Generator().manual_seed(number)
        return {name: tensor + 0.05 * torch.randn(tensor.shape, generator=noise) for name, tensor in self.base.items()}

    @torch.no_grad()
    def logprobs(self, samples: tuple[TrainSample, ...], number: int) -> torch.Tensor:
        """As a trainer of that version computes them, a whole response at once. Flat over all outputs, in order."""
        self.model.load_state_dict(self.weights(number), strict=False)
        found = []
        for sample in samples:
            ids = torch.from_numpy(np.concatenate([PROMPT_IDS, sample.output_ids])).long()
            logp = self.model(ids[None]).logits[0, len(PROMPT_IDS) - 1 : -1].log_softmax(-1)
            found.append(logp.gather(1, ids[len(PROMPT_IDS) :, None])[:, 0])
        return torch.cat(found)


Arrived = list[tuple[int, Completion]]
"""Responses, each with the number of the newest version by then."""


def fill(stream: Stream, arrived: Arrived, num_open: int) -> None:
    """See that so many requests are in flight."""
    first = len(arrived) + stream.num_open
    stream.add(
        [
            RolloutRequest(rid=f"r{i:04d}", prompt_id="p", prompt_ids=PROMPT_IDS, sampling=SAMPLING, seed=i)
            for i in range(first, first + num_open - stream.num_open)
        ]
    )


def fly(fleet: Fleet, model: Model, folder: Path) -> Arrived:
    """An update at every step, under the requests that the step finds in flight."""
    sync = Verified(DiskSync(folder, model.folder, fleet), fleet, 1, "cpu")

    def publish(number: int) -> None:
        tensors = iter(model.weights(number).items())
        sync.publish(tensors, model.architecture, torch.float32, version_of(number))

    arrived: Arrived = []
    publish(0)
    with fleet.stream() as stream:
        for number in range(1, NUM_UPDATES + 1):
            fill(stream, arrived, NUM_OPEN)
            publish(number)
            arrived += [(number, completion) for completion in complete(stream.take())]
        fill(stream, arrived, NUM_LAST)
        while stream.num_open:
            arrived += [(NUM_UPDATES, completion) for completion in complete(stream.take())]
    return arrived


@pytest.fixture(params=["recompute", "keep"])
def cache(request: pytest.FixtureRequest) -> Cache:
    return request.param


@pytest.fixture
def fleet(server: str, cache: Cache, model_a: Path, tmp_path: Path) -> Iterator[Fleet]:
    section = RolloutSection(server="external", urls=(server,), request_timeout_s=120, update_timeout_s=60)
    with Fleet.start(section, model_a, "a", tmp_path, cache=cache) as attached:
        yield attached


def train_samples(completions: list[Completion], version: str) -> tuple[TrainSample, ...]:
    """What a trainer of that version is given."""
    samples = [replace(make_sample([1]), completion=completion) for completion in completions]
    return scored_only([make_group(samples)], version).dropped


def require_right_spans(arrived: Arrived) -> None:
    """Contiguous, in order, of published versions only, and up to the one that the server had at the response's end."""
    for newest, completion in arrived:
        spans = completion.weight_versions
        assert (spans[0].start, spans[-1].end) == (0, len(completion.output_ids))
        assert all(span.start < span.end for span in spans)
        assert all(first.end == second.start for first, second in pairwise(spans))
        numbers = [int(span.version.removeprefix("v")) for span in spans]
        assert numbers == sorted(set(numbers))
        # a reply may be on its way while one update goes by
        assert numbers[0] >= 0 and newest - 1 <= numbers[-1] <= newest


def test_spans_and_versions_are_right_and_log_probs_pass_the_gate_where_it_looks(
    fleet: Fleet, cache: Cache, model_a: Path, tmp_path: Path
) -> None:
    model = Model(model_a)
    arrived = fly(fleet, model, tmp_path / "sync")
    require_right_spans(arrived)
    completions = [completion for _newest, completion in arrived]
    crossed = {span.version for completion in completions for span in completion.weight_versions[1:]}
    num_compared, left_out = 0, 0.0
    for number in range(NUM_UPDATES + 1):
        version = version_of(number)
        own = [c for c in completions if version in {span.version for span in c.weight_versions}]
        samples = train_samples(own, version)
        logprobs = model.logprobs(samples, number) if own else torch.zeros(0)
        gate = LogprobGate(PolicySection(), torch.float32)
        gate.compare(samples, TokenStats(logprobs, logprobs, logprobs))
        assert gate.differences.max(initial=0.0) <= 1e-4
        num_compared += len(gate.differences)
        left_out = max(left_out, largest_left_out(own, samples, logprobs, version))
    print(f"{cache}: {len(crossed)} of {NUM_UPDATES} updates found responses in flight, {num_compared} tokens compared")
    assert crossed and num_compared >= 256
    # to recompute leaves out nothing, and what is left out of a kept cache is no agreement by chance
    assert left_out == 0 if cache == "recompute" else left_out > 1e-2


def largest_left_out(
    completions: list[Completion], samples: tuple[TrainSample, ...], logprobs: torch.Tensor, version: str
) -> float:
    """|server - trainer| at the tokens of a version that the gate does not look at; 0 where it looks at all of them."""
    largest, start = 0.0, 0
    for completion, sample in zip(completions, samples, strict=True):
        off = np.abs(sample.rollout_logprobs - logprobs.numpy()[start : start + len(sample.output_ids)])
        start += len(sample.output_ids)
        for span in completion.weight_versions:
            if span.version == version:
                inside = slice(span.start, span.end)
                largest = max(largest, off[inside][~sample.compared[inside]].max(initial=0.0))
    return largest
