"""The modes' true coordinators over fake servers in virtual time: what the simulation is held against."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch

from egrc_mega.convert.family import Architecture
from egrc_mega.convert.hf_folder import HfTensors
from egrc_mega.methods.explore import ExploreSection
from egrc_mega.methods.method import build_method
from egrc_mega.methods.records import View
from egrc_mega.plan.schedule.server import Seconds
from egrc_mega.plan.schedule.setting import Outcome, Setting, Step, Window
from egrc_mega.rollout.fleet import Fleet
from egrc_mega.rollout.weights import FolderWeights
from egrc_mega.sections.rollout import RolloutSection
from egrc_mega.sections.stage import SamplingSection
from egrc_mega.stages.state import Position
from egrc_mega.sync.publisher import Publisher
from egrc_mega.testing.fake_stream import Problems, Words, judge
from egrc_mega.testing.loaded_server import LoadedFakeServer, Scale
from egrc_mega.testing.virtual_threads import SharedVirtualLoop
from egrc_mega.training.ahead import Ahead
from egrc_mega.training.collection import Collector, Means, Planner, StepGroups
from egrc_mega.training.sampler import Sampler
from egrc_mega.training.staleness import version_number
from egrc_mega.training.turn import Turn
from egrc_mega.types import Completion

MODEL = Path("weights")
"""Never read: a fake server believes every folder."""
FOREVER_S = 1e9


class Trainer:
    """Takes the time that training would, over a fleet in virtual time."""

    def __init__(self, setting: Setting, mode: str, window: Window, fleet: Fleet) -> None:
        self.setting, self.mode, self.fleet = setting, mode, fleet
        self.scale = Scale()
        self.stage = ExploreSection(
            clip_len=setting.responses.cap,
            steps=window.num_steps,
            rollout=SamplingSection(n=setting.n, max_new_tokens=setting.responses.cap, drop_groups="never"),
        )
        planner = Planner(Problems(), Words(), 1, (2,))  # type: ignore[arg-type]
        means = Means(fleet.section, planner, fleet, None, judge)
        self.source = Sampler(means) if mode == "async" else Ahead(Collector(means))
        self.publisher = Publisher(Timed(self), in_flight=mode == "async")
        self.steps: list[Step] = []

    @property
    def now(self) -> float:
        """Simulated seconds since the servers began."""
        return self.fleet.loop.time() * self.scale.seconds

    def pass_time(self, seconds: float) -> None:
        """Do nothing for so long, in simulated seconds."""
        self.fleet.run(asyncio.sleep(seconds / self.scale.seconds))

    def take_step(self, position: Position, number: int) -> Position:
        """Collect, train, hand out the weights; where the next step begins."""
        before, turn = self.now, self._turn(number)
        found = self.source.collect(turn, position)
        waited = self.now - before
        completions = [sample.completion for group in found.groups for sample in group.samples]
        num_tokens = self.scale.tokens * sum(len(completion.output_ids) for completion in completions)
        train_s = self.setting.train_s(num_tokens, len(completions))
        if self.mode == "ahead" and turn.next:
            self.source.begin(turn.next, found.position)
        self.pass_time(train_s)
        # nobody looks at the tensors
        self.publisher.publish((), None, torch.bfloat16, f"v{number + 1}")  # type: ignore[arg-type]
        places = tuple(int(group.problem.key) for group in found.groups)
        lags, oldest = lags_of(found, number, self.scale.tokens)
        self.steps.append(Step(self.now, waited, train_s, num_tokens, places, lags, oldest))
        return found.position

    def close(self) -> None:
        """Sample no more, once the servers have loaded what they were given."""
        self.publisher.settle()
        self.source.close()

    def _turn(self, number: int) -> Turn:
        method = build_method(self.stage)
        view = View(step=number, state=method.State(), seed=1)
        return Turn(number, number, self.stage, method, view, f"v{number}")


class Timed:
    """A transport without tensors: writing takes the trainer's time, and loading the servers'."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def publish(self, tensors: HfTensors, architecture: Architecture, dtype: torch.dtype, version: str) -> None:
        """Write, and have every server load."""
        self.stage(tensors, architecture, dtype, version)()

    def stage(
        self, _tensors: HfTensors, _architecture: Architecture, _dtype: torch.dtype, version: str
    ) -> Callable[[], None]:
        """Write; what is returned has every server load."""
        self.trainer.pass_time(self.trainer.setting.write_s)
        return lambda: self.trainer.fleet.update_weights(FolderWeights(MODEL, version))


def lags_of(found: StepGroups, number: int, tokens: int) -> tuple[Counter[int], Counter[int]]:
    """Tokens by how many versions old they were in step `number`, and groups by their oldest token.

    Args:
        tokens: that a token of a reply stands for.
    """
    lags: Counter[int] = Counter()
    oldest: Counter[int] = Counter()
    for group in found.groups:
        completions = [sample.completion for sample in group.samples]
        for completion in completions:
            lags += _lags(completion, number, tokens)
        oldest[max(max(_lags(completion, number, tokens)) for completion in completions)] += 1
    return lags, oldest


def _lags(completion: Completion, number: int, tokens: int) -> Counter[int]:
    spans = completion.weight_versions
    return Counter({number - version_number(s.version): (s.end - s.start) * tokens for s in spans})


@contextmanager
def served(setting: Setting) -> Iterator[tuple[Fleet, list[LoadedFakeServer]]]:
    """A true fleet over the setting's servers, in one loop, which is in virtual time."""
    loop, attempts = SharedVirtualLoop(), Counter[int]()
    servers = [
        LoadedFakeServer(setting.law, setting.responses, setting.prompt_tokens, setting.load_s, attempts)
        for _ in range(setting.num_servers)
    ]
    for server in servers:
        loop.run_until_complete(server.serve())
    section = RolloutSection(
        server="external",
        urls=tuple(server.url for server in servers),
        prompts_per_step=setting.prompts_per_step,
        max_staleness=setting.max_staleness,
        request_timeout_s=FOREVER_S,
        silence_timeout_s=FOREVER_S,
    )
    with mock.patch.object(asyncio, "new_event_loop", lambda: loop):
        fleet = Fleet.start(section, MODEL, "v0", Path(), cache="recompute" if setting.recomputes else "keep")
    with fleet:
        try:
            yield fleet, servers
        finally:
            for server in servers:
                fleet.run(server.close())


def run_real(setting: Setting, mode: str, window: Window) -> Outcome:
    """What `modes.MODES[mode](setting, window).run()` simulates, by the true coordinator."""
    with served(setting) as (fleet, servers):
        fleet.update_weights(FolderWeights(MODEL, "v0"))
        trainer, position = Trainer(setting, mode, window, fleet), Position()
        for number in range(window.end):
            if number == window.warm:
                begun, before = trainer.now, _account(fleet, servers)
            position = trainer.take_step(position, number)
        outcome = Outcome(trainer.steps[window.warm :], trainer.now - begun, _account(fleet, servers) - before)
        trainer.close()
        return outcome


def _account(fleet: Fleet, servers: list[LoadedFakeServer]) -> Seconds:
    async def add_up() -> Seconds:
        for server in servers:
            server.account()
        return sum((server.load.seconds for server in servers), Seconds())

    return fleet.run(add_up())
