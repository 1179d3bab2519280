"""Rank 0's part of a run, as one object: servers, graders, problems, weight sync, events."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from egrc_mega import __version__
from egrc_mega.config.config import Config
from egrc_mega.convert.hf_folder import HfTensors, weight_bytes, write_folder
from egrc_mega.data.problems import ProblemSource
from egrc_mega.data.reader import read_problems
from egrc_mega.data.render import Renderer
from egrc_mega.data.tokenizer import special_tokens
from egrc_mega.evaluation.sets import training_profile
from egrc_mega.methods.records import Credit
from egrc_mega.observe.console import StepPrinter
from egrc_mega.observe.events import EventLog
from egrc_mega.observe.rollouts import FOLDER, RolloutLog
from egrc_mega.observe.span_log import SERVERS, SpanLog
from egrc_mega.observe.spans import RECORDER, Span
from egrc_mega.policy.engine import Policy
from egrc_mega.policy.pass_sums import TokenStats
from egrc_mega.run_folder import LOG, RunFolder
from egrc_mega.stages.progress import Switch
from egrc_mega.stages.state import Position, Spent
from egrc_mega.sync.publisher import Publisher
from egrc_mega.sync.transport import build_transport, check_transport
from egrc_mega.trackers.children import Trackers
from egrc_mega.training.ahead import Ahead
from egrc_mega.training.asks import prove_asks
from egrc_mega.training.batch import Batch, build_batch, scored_only
from egrc_mega.training.collection import Collector, Means, Planner, StepGroups
from egrc_mega.training.credit import credited
from egrc_mega.training.gate import GateWatch
from egrc_mega.training.live import Live, kept_in_a_file, metrics_endpoint
from egrc_mega.training.measuring import MeasuringLead
from egrc_mega.training.record import step_record
from egrc_mega.training.replay import Replay, Unserved, collected_as
from egrc_mega.training.sampler import Sampler
from egrc_mega.training.serving import Serving, open_renderer
from egrc_mega.training.spare import Spare
from egrc_mega.training.stored import stored_groups
from egrc_mega.training.turn import Turn
from egrc_mega.training.update import UpdateMetrics
from egrc_mega.types import FloatArray, Group

MEGA = 10**6


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a step's groups teach: computed once, and used by the batch, the record and the rollouts on disk."""

    groups: list[Group]
    credits: list[list[Credit]]


class Lead(MeasuringLead):
    """What only rank 0 has. Whatever `stack` holds is stopped when the run ends."""

    num_evaluations_left = 0
    """At most, after the step under way: a part of the time that is left."""

    def __init__(self, config: Config, folder: RunFolder, stack: ExitStack, spent: Spent, *, resume: bool) -> None:
        """Read the problems, start servers and graders.

        Args:
            spent: of the budgets, before this process.

        Raises:
            EgrcError: data, model folder or a server cannot be used.
        """
        self.config, self.folder = config, folder
        total_steps, log = sum(stage.steps for stage in config.stages), folder.path / LOG
        self.printer = stack.enter_context(StepPrinter(total_steps, log=log, is_verbose=config.observe.verbose))
        renderer = open_renderer(config)
        self.serving: Serving
        self.ahead: Ahead | Sampler | Replay
        if config.run.replay_rollouts is not None:
            self.printer.note(f"run folder {folder.path}; replaying {config.run.replay_rollouts}: nothing is evaluated")
            self.ahead = Replay(config, config.run.replay_rollouts, renderer)
            self.serving = Unserved(config, renderer, stack, self.printer.note)
        else:
            self._open_servers(renderer, stack, spent)
        self._open_records(stack, resume=resume)
        template = renderer.template
        self.events.write("template", **asdict(template.proof), date=template.today.isoformat())
        transport = build_transport(config, self.folder.weights, self.serving.fleet)
        self.publisher = Publisher(transport, in_flight=config.rollout.mode == "async")
        stack.callback(self.publisher.close)
        dtype = torch.bfloat16 if config.megatron.bf16 else torch.float32
        self.gate_watch = GateWatch(config.policy, dtype)
        self.collected: StepGroups
        """Of the step under way."""
        self.lesson: Lesson

    def _open_servers(self, renderer: Renderer, stack: ExitStack, spent: Spent) -> None:
        """Whoever samples, grades and evaluates."""
        config = self.config
        check_transport(config)
        self.printer.note(f"run folder {self.folder.path}; starting servers and graders")
        source = self._read_problems(renderer)
        serving = self.serving = Serving(config, renderer, self.folder, stack, self.printer.note, self.printer.bar)
        serving.fleet.restarts.recall(spent.restarts)
        if config.evaluation.spare:
            self.printer.note("starting spare servers, which evaluate beside training")
            own = self.folder.path, self.folder.logs / "spare", spent.spare_restarts
            spare = Spare(config, serving, *own, self.note_evaluation, self.printer.note)
            self.spare = stack.enter_context(spare)
        # all of them load the model at once
        serving.fleet.wait_until_ready()
        if self.spare:
            self.spare.wait_until_ready()
        planner = Planner(source, renderer, config.run.seed, serving.stop_token_ids)
        means = Means(config.rollout, planner, serving.fleet, serving.environment, serving.judge)
        is_async = config.rollout.mode == "async"
        self.ahead = Sampler(means, spent.refused) if is_async else Ahead(Collector(means, spent.refused))
        stack.callback(self.ahead.close)

    def _read_problems(self, renderer: Renderer) -> ProblemSource:
        """The training data, once it is proved that every stage can ask for it."""
        config = self.config
        problems = read_problems(
            config.data.train,
            config.data,
            self.folder.quarantine,
            profile=training_profile(config),
            special_tokens=special_tokens(renderer.tokenizer),
            note=self.printer.note,
        )
        prove_asks(config, renderer, problems)
        template = renderer.template
        self.printer.note(f"the chat template {template.proof.line(template.today)}")
        return ProblemSource(problems, shuffle=config.data.shuffle, seed=config.run.seed)

    def _open_records(self, stack: ExitStack, *, resume: bool) -> None:
        """What is kept of the run and shown of it; from here on the folder holds a run."""
        config, run_dir, section = self.config, self.folder.path, self.config.observe
        self.folder.write_config(config.to_dict())
        self.events = stack.enter_context(EventLog(self.folder.metrics))
        self.events.write("resume" if resume else "run", seed=config.run.seed, version=__version__)
        self.trackers = stack.enter_context(Trackers(section.trackers, run_dir, self.printer.note))
        self.rollouts = stack.enter_context(RolloutLog(run_dir / FOLDER, int(section.rollouts_gib * 2**30)))
        self.server_spans = stack.enter_context(SpanLog(run_dir, SERVERS))
        spare_servers = self.spare.fleet.servers if self.spare else []
        self.live = Live(run_dir, self.events.newest, [*self.serving.fleet.servers, *spare_servers])
        stack.enter_context(kept_in_a_file(self.live))
        stack.enter_context(metrics_endpoint(section, self.live, self.printer.note))

    def note_processes(self, ranks: Sequence[Mapping[str, Any]]) -> None:
        """Keep where the ranks are, in order, each with its `host` and `pid`, and where the servers are."""
        self.live.ranks = ranks
        hosts: dict[str, list[int]] = {}
        for rank in ranks:
            hosts.setdefault(rank["host"], []).append(rank["pid"])
        self.events.write("processes", hosts=hosts, servers=[s.client.url for s in self.serving.fleet.servers])

    def collect(self, turn: Turn, position: Position) -> Position:
        """Sample and grade the step's groups, or take those that were sampled ahead; the position after them."""
        self.collected = self.ahead.collect(turn, position)
        return self.collected.position

    def to_measure(self, turn: Turn) -> Batch:
        """The step's samples, for a method that needs to know what trainer or reference think of them."""
        return scored_only(self.collected.groups, turn.version)

    def note_measured(self, turn: Turn, stats: TokenStats, reference: torch.Tensor | None) -> None:
        """Put what the method asks for, flat over all outputs in order, onto the samples."""
        samples = [sample for group in self.collected.groups for sample in group.samples]
        flat: dict[str, FloatArray] = {"entropies": stats.entropies.numpy()}
        if reference is not None:
            sampled = np.concatenate([sample.completion.sampled for sample in samples])
            differences = np.where(sampled, (stats.logprobs - reference).numpy(), np.float32(0))
            flat |= {"reference_logprobs": reference.numpy(), "reference_kl": differences}
        ends = np.cumsum([sample.length for sample in samples])[:-1]
        wanted = {name: np.split(flat[name], ends) for name in sorted(flat.keys() & turn.method.measures)}
        own: list[Any] = [{name: parts[i] for name, parts in wanted.items()} for i in range(len(samples))]
        measured = iter(replace(sample, **values) for sample, values in zip(samples, own, strict=True))
        groups = [replace(g, samples=tuple(next(measured) for _ in g.samples)) for g in self.collected.groups]
        self.collected = replace(self.collected, groups=groups)

    def credit(self, turn: Turn) -> Batch:
        """Ask the method what the groups teach, once, and make a batch of it."""
        groups = self.collected.groups
        self.lesson = Lesson(groups, credited(turn, groups))
        return build_batch(groups, self.lesson.credits, turn.stage, turn.version)

    def record(self, turn: Turn, update: UpdateMetrics, costs: dict[str, Any], total_steps: int) -> dict[str, Any]:
        """Write the step to `metrics.jsonl`, show its line and return it."""
        costs |= self.serving.fleet.take_stats() | self.collected.counts
        costs["length_sampled"] = self.collected.length_sampled
        record = step_record(turn, self.lesson.groups, self.lesson.credits, update, costs, total_steps)
        self.events.write("step", **record)
        if self.collected.fates:
            self.events.write("fates", step=turn.step + 1, **self.collected.fates.model_dump())
        stored = stored_groups(self.lesson.groups, self.lesson.credits)
        state = turn.view.state.model_dump(mode="json")
        how = collected_as(self.collected, turn)
        at = {"step_in_stage": turn.step_in_stage, "state": state, "collected": how}
        self.rollouts.write(turn.step + 1, turn.stage.name, stored, **at)
        self.printer.show(record, self.num_evaluations_left)
        self.trackers.check()
        for warning in self.gate_watch.warnings(record):
            self.events.write("warning", step=turn.step + 1, text=warning)
            self.printer.note(warning)
        return record

    def spent(self, before: Spent) -> Spent:
        """Of the budgets, with the step under way."""
        refused = before.refused + self.collected.counts.get("refused_groups", 0)
        spare = self.spare.fleet.restarts.ages() if self.spare else before.spare_restarts
        return Spent(refused=refused, restarts=self.serving.fleet.restarts.ages(), spare_restarts=spare)

    def note_spans(self, turn: Turn, spans: Sequence[Span]) -> None:
        """Keep what rank 0 and the servers did since the last step."""
        self.events.write("spans", step=turn.step + 1, **RECORDER.event(spans))
        servers = self.serving.fleet.take_timelines(RECORDER.wall_time)
        if self.spare:
            servers += self.spare.take_timelines(RECORDER.wall_time)
        self.server_spans.write(turn.step + 1, servers=servers)

    def end_stage(self, switch: Switch) -> None:
        """Say so; nothing more is sampled for it."""
        self.ahead.close()
        self.note_switch(switch)

    def end_run(self, step: int, reason: str) -> None:
        """Say why it ends before its last step; nothing more is sampled for it."""
        self.ahead.close()
        self.note_stop(step, reason)

    def publish(self, tensors: HfTensors, policy: Policy, version: str) -> None:
        """Move every server to these weights, or begin to: see `Publisher`."""
        self.publisher.publish(tensors, policy.architecture, policy.dtype, version)

    def export(self, tensors: HfTensors, policy: Policy) -> None:
        """Write the Hugging Face folder, in the dtype in which it was served and measured; config.json then says so."""
        architecture, dtype = policy.architecture, str(policy.dtype).removeprefix("torch.")
        megabytes = weight_bytes(architecture, policy.dtype) / MEGA
        with self.printer.bar("exporting, in MB", megabytes) as tell:
            write_folder(
                self.folder.export,
                tensors,
                architecture=architecture,
                source=policy.companions,
                dtype=policy.dtype,
                durable=True,
                advance=lambda count: tell(count / MEGA),
            )
        if architecture.dtype not in (None, dtype):
            self.printer.note(
                f"{self.folder.export} is in {dtype}, as it was measured; the model came in {architecture.dtype}: "
                f"egrc convert with --dtype rounds it, and says where a value does not fit"
            )
