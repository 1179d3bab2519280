"""A run: its policy on every rank, its lead on rank 0, and the verbs of the loop, all of them collective."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

from egrc_mega.checkpoint.store import load
from egrc_mega.config.config import Config, completed
from egrc_mega.convert.hf_folder import HfTensors
from egrc_mega.errors import EgrcError, Stopped
from egrc_mega.faults import begin_step, fault_point
from egrc_mega.methods.method import OF_THE_REFERENCE, Need, build_method
from egrc_mega.observe.span_log import SpanLog, rank_name
from egrc_mega.observe.spans import RECORDER, span
from egrc_mega.parent import end_stopped_children
from egrc_mega.policy import distributed
from egrc_mega.policy.determinism import make_deterministic
from egrc_mega.policy.engine import Policy
from egrc_mega.run_folder import STOP, RunFolder, has_begun
from egrc_mega.sections.base import Section
from egrc_mega.stages.health import follow as watch_health
from egrc_mega.stages.progress import (
    advance,
    evaluations_left_at_most,
    steps_left_at_most,
)
from egrc_mega.stages.resume import resumed
from egrc_mega.stages.state import Position, RunState
from egrc_mega.stop_signal import StopSignal
from egrc_mega.training.accounting import Accounting
from egrc_mega.training.batch import Batch, decode, encode
from egrc_mega.training.clock import share_clock
from egrc_mega.training.commits import Commits, open_store
from egrc_mega.training.evaluations import Evaluations
from egrc_mega.training.lead import Lead
from egrc_mega.training.profiling import StepProfiler
from egrc_mega.training.turn import Turn, turn_of
from egrc_mega.training.unlike_ranks import refuse_unlike_ranks
from egrc_mega.training.update import UpdateMetrics, run_updates
from egrc_mega.training.verbs import noted, watch_for_hangs


class Recorded(Section):
    """What rank 0 says of a step that is done."""

    state: RunState
    """After the step."""
    fatal: tuple[str, ...]
    """Alarms that end the run."""


@noted
class Run:
    """One training run. Use as a context manager: leaving it stops servers, graders and process groups."""

    def __init__(self, config: Config, *, resume: bool | None) -> None:
        """`resume`: whether to go on with the run that the folder holds; None: if it holds one."""
        self.config, self.resume = config, resume
        self.stack = ExitStack()
        self.accounting = Accounting()
        self.state = RunState(config=config.to_dict())
        """The same on every rank between turns; within a turn rank 0's is ahead of the others'."""
        self.lead: Lead | None = None
        self.fatal: tuple[str, ...] = ()
        """Alarms of the step under way that end the run; the same on every rank."""
        self.stopped_by: str | None = None
        """The rule by which evaluations have ended the run; the same on every rank."""
        self.checkpoint: Path | None = None
        """What a resumed run begins with."""
        self.profiler = StepProfiler(config.observe, config.run.dir)
        self.evaluations = Evaluations(self)

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stack.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stack.close()

    def _start(self) -> None:
        config = self.config
        if config.policy.deterministic:
            make_deterministic()
        self.stack.callback(end_stopped_children)
        limits = config.policy.distributed_timeout_s, config.run.lead_timeout_s
        distributed.initialize(config.megatron, *limits, is_watched=True)
        self.stack.callback(distributed.finalize)
        RECORDER.rank = distributed.rank()
        self.watch = self.stack.enter_context(watch_for_hangs(config))
        refuse_unlike_ranks(config)
        share_clock()
        self.span_log = self.stack.enter_context(SpanLog(config.run.dir, rank_name(RECORDER.rank)))
        self.stop = self.stack.enter_context(StopSignal(config.run.stop_grace_s, answers=distributed.is_rank_0()))
        self.store = open_store(config)
        self._start_lead()
        self.profiler.note = self.lead.printer.note if self.lead else print
        self.stack.callback(self.profiler.close)
        self.commits = Commits(self.store, self.lead)
        self.policy = Policy(config.model.path, config.megatron, config.policy, keeps_reference=self._keeps_reference())
        self.on_lead(Lead.note_parts)
        self.on_lead(lambda lead: lead.note_processes(self.watch.peers))
        self._restore()
        self.evaluations.take_up()
        self.publish_weights()

    def _start_lead(self) -> None:
        """Claim the folder, find the place to go on from, and then start servers: what is refused is refused before."""
        run_dir = self.config.run.dir

        def claim() -> bytes | None:
            resume = has_begun(run_dir) if self.resume is None else self.resume
            self.folder = self.stack.enter_context(RunFolder.claim(run_dir, resume=resume))
            return b"resume" if resume else None

        def start() -> None:
            with self.watch.reporting_waits():
                self.lead = Lead(self.config, self.folder, self.stack, self.state.spent, resume=resume)
            if resume:
                self.lead.note_resume(self.state.progress.step, self.checkpoint)

        resume = bool(distributed.on_rank_0(claim))
        self.stack.callback(self.store.close)  # what is in flight is written while the folder is still ours
        if resume:
            self.checkpoint = self.store.newest()
            distributed.on_rank_0(self._find_place)
        distributed.on_rank_0(start)

    def _stage_of(self, turn: Turn) -> int:
        return next(i for i, stage in enumerate(self.config.stages) if stage is turn.stage)

    def _keeps_reference(self) -> bool:
        """Whether a stage's loss, or its method, looks at the reference model's log-probs."""
        stages = self.config.stages
        measured = frozenset[Need]().union(*(build_method(stage).measures for stage in stages))
        return any(stage.loss.needs_reference for stage in stages) or bool(measured & OF_THE_REFERENCE)

    def on_lead(self, compute: Callable[[Lead], bytes | None]) -> bytes:
        """Run `compute` on rank 0 and hand its bytes to every rank; they wait as long as `run.lead_timeout_s`.

        Raises:
            RolloutError: weights that were on their way did not reach every server, whatever was to be computed.
        """

        def unless_weights_are_lost(lead: Lead) -> bytes | None:
            lead.publisher.check()
            return compute(lead)

        return self._with_lead(unless_weights_are_lost)

    def _with_lead(self, compute: Callable[[Lead], bytes | None]) -> bytes:
        def with_lead() -> bytes | None:
            assert self.lead is not None
            with self.watch.reporting_waits():
                return compute(self.lead)

        return distributed.on_rank_0(with_lead)

    def unless_stopped(self, compute: Callable[[Lead], bytes | None]) -> bytes:
        """`on_lead` for what takes long and changes nothing until it is done: given up when a stop is overdue."""

        def within_grace(lead: Lead) -> bytes | None:
            with self.stop.may_give_up():
                return compute(lead)

        try:
            return self.on_lead(within_grace)
        except EgrcError as error:
            if error.exit_code == Stopped.exit_code:
                self._end_early()
            raise

    def _end_early(self, by: str = "SIGTERM") -> NoReturn:
        """Commit the last whole step, if it is not, and leave.

        Raises:
            Stopped: always, on every rank.
        """
        self.commits.complete(self.policy, self.state)
        place = f"stopped by {by} {self._place()}"
        self.on_lead(lambda lead: lead.events.write("stopped", step=self.state.progress.step, text=place))
        raise Stopped(f"{place}; go on with --resume")

    def _who_asks_to_stop(self) -> bytes | None:
        if self.stop.wanted:
            return b"SIGTERM"
        return b"egrc stop" if (self.config.run.dir / STOP).exists() else None

    def _place(self) -> str:
        """How far the run is, and which step of it is committed."""
        done, kept = self.state.progress.step, self.commits.step
        if not done:
            return "before the first step was done"
        if kept == done:
            return f"after step {done}, which is committed"
        return f"after step {done}; " + (f"step {kept} is committed" if kept else "no step is committed")

    def _find_place(self) -> None:
        """On rank 0: the run's place in the checkpoint under the present configuration."""
        if self.checkpoint:
            kept = self.store.state(self.checkpoint)
            state = RunState.model_validate({name: kept[name] for name in RunState.model_fields if name in kept})
            # a converted checkpoint knows nothing of any run
            if state.config:
                state = state.model_copy(update={"config": completed(state.config)})
                self.state = resumed(state, self.config.to_dict())

    def _restore(self) -> None:
        """Load the checkpoint, if there is one, and have every rank go on from there."""
        if self.checkpoint:
            load(self.checkpoint, self.policy)
            self.state = RunState.model_validate_json(self.on_lead(lambda _: self.state.model_dump_json().encode()))
            self.commits.step = self.state.progress.step

    def turn(self) -> Turn | None:
        """The next step to take, the same on every rank; None when the run is over."""
        if self.stopped_by:
            return None
        return turn_of(self.state, self.config.stages, self.config.run.seed)

    def evaluate(self) -> None:
        """Measure the weights that the run has reached, where they are due."""
        self.evaluations.measure_if_due()

    def open_stage(self, turn: Turn) -> None:
        """Say so; then the optimizer forgets, if the stage says so."""
        if self.lead:
            self.lead.note_stage(turn)
        if turn.stage.optim.reset:
            self.policy.reset_optimizer()

    def collect(self, turn: Turn) -> None:
        """Roll out and grade the step's groups.

        The position moves when a stop can give nothing up any more: what is committed then lacks no problem.
        """
        self.profiler.begin(turn.step + 1)
        before = self.state.position
        found = self.unless_stopped(lambda lead: lead.collect(turn, before).model_dump_json().encode())
        self.state = self.state.model_copy(update={"position": Position.model_validate_json(found)})

    def sample_ahead(self, turn: Turn) -> None:
        """Begin the next step's groups, where the configuration says so and the stage may go on."""
        if self.lead and self.config.rollout.mode != "sync" and turn.next:
            self.lead.ahead.begin(turn.next, self.state.position)

    def credit(self, turn: Turn) -> Batch:
        """What the groups teach: scored first where the method needs it, credited once; every rank gets the batch."""
        with span("credit"):
            self._measure(turn)
            return decode(self.on_lead(lambda lead: encode(lead.credit(turn))))

    def _measure(self, turn: Turn) -> None:
        """Put onto the samples what the method needs of trainer and reference model."""
        needs = turn.method.measures & {"entropies", *OF_THE_REFERENCE}
        if needs:
            samples = decode(self.on_lead(lambda lead: encode(lead.to_measure(turn)))).dropped
            temperature = turn.stage.rollout.temperature
            stats = self.policy.score(samples, temperature)
            wants_reference = bool(needs & OF_THE_REFERENCE)
            reference = self.policy.score_reference(samples, temperature) if wants_reference else None
            self.on_lead(lambda lead: lead.note_measured(turn, stats, reference))

    def update(self, turn: Turn, batch: Batch) -> UpdateMetrics:
        """The optimizer steps of the batch. Colocated servers sleep meanwhile."""
        if self.config.rollout.colocated:
            # no rank takes memory that a server still holds
            self.on_lead(lambda lead: lead.serving.fleet.release_memory())
        begin_step(turn.step + 1)
        fault_point("train.before_update")
        with self.accounting.phase("train"):
            return run_updates(self.policy, batch, turn.stage, self.config.policy, turn.step_in_stage)

    def publish_weights(self, turn: Turn | None = None) -> None:
        """Move every server to the current weights, named after the number of steps they have seen.

        In async mode they load while the run goes on, but for its first weights: from what servers had before them
        nothing is sampled.
        """
        if self.config.run.replay_rollouts is not None:
            return
        version = f"v{turn.step + 1}" if turn else self.state.version
        with self.accounting.phase("sync"):
            self.hand_out_weights(lambda lead, tensors: lead.publish(tensors, self.policy, version))
            if turn is None:
                self.on_lead(lambda lead: lead.publisher.settle())

    def record(self, turn: Turn, update: UpdateMetrics) -> None:
        """Write the step down and show it; then the stage's rules decide whether it goes on."""

        def note(lead: Lead) -> bytes:
            before, stages = self.state.progress, self.config.stages
            spans = RECORDER.take()
            lead.note_spans(turn, spans)
            costs = self.accounting.record(turn.step, spans, update.work, self.config.policy.peak_tflops)
            total_steps = before.step + steps_left_at_most(before, stages)
            lead.num_evaluations_left = evaluations_left_at_most(before, stages, self.config.evaluation.every)
            record = lead.record(turn, update, costs, total_steps)
            progress, switch = advance(before, stages, record)
            health, alarms = watch_health(self.state.health, self.config.health, record, lead.gate_watch.bound)
            view = replace(turn.view, state=turn.method.remember(turn.view, lead.lesson.groups))
            own = turn.method.after_step(view, record).model_dump(mode="json")
            goes_on = switch is None or switch.opens is None
            moved = {"progress": progress, "method": own if goes_on else None, "health": health}
            moved["spent"] = lead.spent(self.state.spent)
            lead.note_alarms(turn.step + 1, alarms)
            if switch:
                lead.end_stage(switch)
            fatal = tuple(alarm.text for alarm in alarms if alarm.name in self.config.health.stop)
            return Recorded(state=self.state.model_copy(update=moved), fatal=fatal).model_dump_json().encode()

        found = Recorded.model_validate_json(self.on_lead(note))
        self.state, self.fatal = found.state, found.fatal
        if self.lead is None:
            self.span_log.write(turn.step + 1, **RECORDER.event(RECORDER.take()))
        self.profiler.end(turn.step + 1)

    def commit(self, turn: Turn) -> None:
        """Save a checkpoint when one is due. After this the step is never computed again.

        Raises:
            Stopped: somebody has sent SIGTERM, or called `egrc stop`; the step is saved.
        """
        progress = self.state.progress
        done, ends_stage = progress.step, progress.stage != self._stage_of(turn)
        fault_point("train.before_commit", done)
        self.commits.settle(wait=False)
        if ends_stage or self.fatal or done % self.config.checkpoint.every == 0:
            self.commits.begin(self.policy, self.state, is_stage_end=ends_stage)
            fault_point("train.after_commit", done)
        if self.fatal:
            self.commits.complete(self.policy, self.state, is_stage_end=ends_stage)
            self.on_lead(lambda lead: lead.give_up(done, self._place(), self.fatal))
        if by := self.on_lead(lambda _: self._who_asks_to_stop()):
            self._end_early(by.decode())

    def finish(self) -> None:
        """See that the end is committed, export the Hugging Face folder, and wait for the last numbers."""
        self.commits.complete(self.policy, self.state, is_stage_end=True)
        self.hand_out_weights(lambda lead, tensors: lead.export(tensors, self.policy))
        self.evaluations.settle()
        self.on_lead(lambda lead: lead.end(self.state.progress.step, self.policy, self.state.best))

    def hand_out_weights(self, take: Callable[[Lead, HfTensors], None]) -> None:
        """Give rank 0's `take` the whole tensors; the other ranks join the gathering, then learn how it ended.

        Whoever wants them does so when servers have the version before: nothing is on its way then.
        """
        tensors = self.policy.export_hf()

        def take_all(lead: Lead) -> None:
            try:
                lead.publisher.settle()
                take(lead, tensors)
            except Exception:
                # the others are still gathering: they hear of it once they are through
                for _name, _tensor in tensors:
                    pass
                raise

        if self.lead is None:
            for _name, _tensor in tensors:
                pass
        self._with_lead(take_all)
