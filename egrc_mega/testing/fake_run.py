"""A run of the true verbs whose policy, servers and store only take notes: whole runs in milliseconds."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from egrc_kernels.policy_loss import LossMetrics

from egrc_mega.checkpoint.store import Outcome as Saved
from egrc_mega.config.config import Config
from egrc_mega.convert.hf_folder import HfTensors
from egrc_mega.evaluation.evaluator import Outcome
from egrc_mega.evaluation.records import Subject
from egrc_mega.policy.engine import UpdateResult
from egrc_mega.policy.flops import Work
from egrc_mega.policy.pass_sums import TokenStats
from egrc_mega.rollout.restarts import RestartBudget
from egrc_mega.sections.evaluation import BestSection
from egrc_mega.stages.best import Best, Score
from egrc_mega.stages.state import Carried, Position
from egrc_mega.stop_signal import StopSignal
from egrc_mega.sync.publisher import Publisher
from egrc_mega.testing.points import make_point, make_protocol
from egrc_mega.testing.samples import make_group, make_sample
from egrc_mega.training.collection import StepGroups
from egrc_mega.training.commits import Commits
from egrc_mega.training.gate import GateWatch
from egrc_mega.training.lead import Lead
from egrc_mega.training.run import Run
from egrc_mega.training.turn import Turn
from egrc_mega.types import Grade, TrainSample

PROMPTS_PER_STEP = 2


class Notes(list[tuple[Any, ...]]):
    """What happened, in order."""

    accuracies: ClassVar[dict[int, float]] = {}
    """What evaluations find, by step; a test that needs some sets them on its own notes."""

    def of(self, kind: str) -> list[tuple[Any, ...]]:
        """The notes of a kind, without its name."""
        return [note[1:] for note in self if note[0] == kind]


class FakePolicy:
    """One number for its weights: how many updates they have seen."""

    dtype, architecture, companions = torch.float32, SimpleNamespace(dtype=None), Path()

    def __init__(self, notes: Notes, entropy: float = 1.0) -> None:
        self.notes, self.entropy = notes, entropy
        self.num_updates, self.work, self.dtype = 0, Work(), torch.float32

    def score(self, samples: Sequence[TrainSample], temperature: float) -> TokenStats:
        """Log-probs -1 everywhere, as `make_sample` has them."""
        self.notes.append(("score", len(samples), temperature))
        ones = torch.ones(sum(len(sample.output_ids) for sample in samples))
        return TokenStats(-ones, self.entropy * ones, self.entropy * ones)

    def score_reference(self, samples: Sequence[TrainSample], temperature: float) -> torch.Tensor:
        """The reference model's log-probs, -2 everywhere."""
        self.notes.append(("score reference", len(samples), temperature))
        return 2 * self.score(samples, temperature).logprobs

    def update(self, samples: Sequence[TrainSample], temperature: float, _loss: Any, lr: float, *more: Any) -> Any:
        """Count an update, and score the samples as the true one does."""
        stats = self.score(samples, temperature)
        for inspect in more[1:]:
            inspect(stats)
        self.num_updates += 1
        self.notes.append(("update", self.num_updates, lr))
        return UpdateResult(0.5, 0.25, stats, LossMetrics(*torch.ones(len(LossMetrics._fields))))

    def reset_optimizer(self) -> None:
        """Note after which update it came."""
        self.notes.append(("reset", self.num_updates))

    def export_hf(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The number of updates."""
        yield "weight", torch.tensor([float(self.num_updates)])


class FakeAhead:
    """Collects two groups a step, and carries one problem from each step to the next."""

    def __init__(self, notes: Notes) -> None:
        self.notes = notes

    def begin(self, turn: Turn, position: Position) -> None:
        """Note which step was begun ahead."""
        self.notes.append(("begin", turn.step, turn.step_in_stage, position.cursor))

    def collect(self, turn: Turn, position: Position) -> StepGroups:
        """One right and one wrong response in each group."""
        self.notes.append(("collect", turn.step, turn.stage.name, turn.step_in_stage, turn.view.state, position))
        samples = [make_sample(range(3), version=turn.version)]
        samples.append(make_sample(range(5), grade=Grade.WRONG, version=turn.version))
        groups = [replace(make_group(samples)) for _ in range(PROMPTS_PER_STEP)]
        cursor = position.cursor + PROMPTS_PER_STEP
        return StepGroups(groups, Position(cursor=cursor, carried=(Carried(place=cursor - 1, age=1),)), {})

    def close(self) -> None:
        """Note that the stage has ended."""
        self.notes.append(("close",))


class FakeSpare:
    """Measures a point when somebody waits for its numbers, and not before."""

    def __init__(self, notes: Notes, evaluate: Callable[[Subject], list[Outcome]], tell: Any) -> None:
        self.notes, self.evaluate, self.tell = notes, evaluate, tell
        self.fleet = SimpleNamespace(restarts=RestartBudget(3, 3600.0), servers=[])

    def begin(self, subject: Subject) -> None:
        """Note which point is to be measured."""
        self.notes.append(("begin point", subject.label, subject.ordinal, subject.step, subject.within))

    def outcomes(self, subject: Subject) -> list[Outcome]:
        """What the run's evaluations find, wherever they are done."""
        found = self.evaluate(subject)
        self.tell(subject, found)
        return found

    def take_events(self) -> list[str]:
        """Nothing has become of its servers."""
        return []

    def take_timelines(self, wall_time: Any) -> list[Any]:
        """They have done nothing that is worth a trace."""
        return []


class FakeTransport:
    """Notes each version and its weight."""

    def __init__(self, notes: Notes) -> None:
        self.notes = notes
        self.load: Callable[[str], None] = lambda version: None
        """What servers do with a version."""

    def publish(self, tensors: HfTensors, architecture: Any, dtype: torch.dtype, version: str) -> None:
        """Stage it, and load it at once."""
        self.stage(tensors, architecture, dtype, version)()

    def stage(self, tensors: HfTensors, _architecture: Any, _dtype: Any, version: str) -> Callable[[], None]:
        """Note it; the rest is to load it."""
        self.notes.append(("publish", version, float(dict(tensors)["weight"])))
        return lambda: self.load(version)


class FakeLead(Lead):
    """The true one, between parts that take notes."""

    def __init__(self, config: Config, notes: Notes, policy: FakePolicy) -> None:
        self.config, self.notes, self.gate_watch = config, notes, GateWatch(config.policy, torch.float32)
        self.ahead: Any = FakeAhead(notes)
        self.events: Any = SimpleNamespace(write=lambda kind, **facts: notes.append((kind, facts)))
        self.trackers: Any = SimpleNamespace(check=lambda: None)
        self.printer: Any = SimpleNamespace(
            show=lambda record, num_evaluations: None,
            note=lambda line: notes.append(("line", line)),
            note_pause=lambda seconds: None,
        )
        self.rollouts: Any = SimpleNamespace(
            write=lambda step, stage, groups, **at: notes.append(("rollouts", step, stage))
        )
        self.server_spans: Any = SimpleNamespace(write=lambda step, **fields: None)
        fleet = SimpleNamespace(
            wait_until_recovered=lambda: None,
            take_stats=dict,
            restarts=RestartBudget(3, 3600.0),
            take_timelines=lambda wall_time: [],
            forget_rates=lambda: None,
            release_memory=lambda: notes.append(("release", policy.num_updates)),
        )

        def evaluate(subject: Subject) -> list[Outcome]:
            notes.append(("point", subject.label, subject.ordinal, subject.step, subject.weights))
            protocol = make_protocol()
            point = make_point(subject, protocol, notes.accuracies.get(subject.step or 0))
            return [Outcome(replace(point, within=subject.within), None)]

        self.serving: Any = SimpleNamespace(fleet=fleet, evaluator=SimpleNamespace(evaluate=evaluate))
        self.spare: Any = FakeSpare(notes, evaluate, self.note_evaluation) if config.evaluation.spare else None
        self.transport = FakeTransport(notes)
        self.publisher = Publisher(self.transport)

    @property
    def kept_weights(self) -> Any:
        """Notes which steps' weights stay."""
        return SimpleNamespace(keep_only=lambda steps: self.notes.append(("keep only", sorted(steps))))

    def keep_served(self, step: int, version: str) -> bytes | None:
        """Its servers load from no folder."""
        return None

    def keep_weights(self, tensors: HfTensors, policy: Any, step: int) -> str:
        """Note the step and the weight, which is its name."""
        weight = float(dict(tensors)["weight"])
        self.notes.append(("keep", step, weight))
        return f"weight {weight:g}"

    def measure_kept(self, subject: Subject) -> Score | None:
        """As if servers that sample had loaded them."""
        self.notes.append(("load", subject.step))
        return self.evaluate(subject)

    def note_best(self, by: BestSection, score: Score) -> None:
        """Note the step and its figure."""
        self.notes.append(("best", score.step, score.value))

    def export(self, tensors: HfTensors, policy: Any) -> None:
        """Keep the weight for the end."""
        self.exported = float(dict(tensors)["weight"])

    def end(self, step: int, policy: Any, best: Best) -> None:
        """Note the step and the weight that was exported."""
        self.notes.append(("export", step, self.exported))


class FakeStore:
    """Keeps every checkpoint in memory."""

    timeout_s = 60.0

    def __init__(self, notes: Notes) -> None:
        self.notes = notes
        self.states: dict[int, dict[str, Any]] = {}
        self.full_at: set[int] = set()
        """Steps that there is no room for."""
        self.in_flight: list[Saved] = []

    def save(self, step: int, _policy: Any, state: dict[str, Any], *, is_stage_end: bool = False) -> list[Saved]:
        """Keep it, as JSON would, unless the disk is to be full; it has ended when `settle` is called."""
        self.notes.append(("save", step, is_stage_end))
        ended = self.settle()
        problem = "No space left on device" if step in self.full_at else None
        if problem is None:
            self.states[step] = state
        self.in_flight.append(Saved(step, 0.0, problem))
        return ended

    def settle(self, *, wait: bool = True) -> list[Saved]:
        """What has been in flight, once somebody waits for it."""
        ended = list(self.in_flight) if wait else []
        self.in_flight = [] if wait else self.in_flight
        return ended

    def has(self, step: int) -> bool:
        """Whether it was saved: nothing goes."""
        return step in self.states

    def hold(self, steps: Iterable[int]) -> None:
        """Note which steps they are."""
        self.notes.append(("hold", sorted(steps)))

    def state(self, path: Path) -> dict[str, Any]:
        """As the true store keeps it, with its step."""
        return self.states[int(path.name)] | {"step": int(path.name)}

    def newest(self) -> Path | None:
        """Named after its step."""
        return Path(str(max(self.states))) if self.states else None


class FakeRun(Run):
    """A resumed one needs another run's checkpoints in `fake_store.states`, and `run.load` replaced."""

    def __init__(self, config: Config, notes: Notes, *, entropy: float = 1.0, resume: bool = False) -> None:
        super().__init__(config, resume=resume)
        self.notes, self.fake_policy, self.fake_store = notes, FakePolicy(notes, entropy), FakeStore(notes)

    def _start(self) -> None:
        self.stop = StopSignal(60.0, answers=True)  # which listens to nothing
        self.watch: Any = SimpleNamespace(reporting_waits=nullcontext)
        self.policy: Any = self.fake_policy
        self.lead = FakeLead(self.config, self.notes, self.fake_policy)
        store: Any = self.fake_store
        self.store, self.commits = store, Commits(store, self.lead)
        if self.resume:
            self.checkpoint = self.fake_store.newest()
            self._find_place()
            self._restore()
        self.evaluations.take_up()
        self.publish_weights()
