"""A run: its policy on every rank, its coordinator on rank 0, and the verbs of the loop, all of them collective."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from egrc_mega import __version__
from egrc_mega.checkpoint.store import CheckpointStore, load
from egrc_mega.config.schema import Config
from egrc_mega.convert.hf_folder import write_folder
from egrc_mega.errors import RunError
from egrc_mega.evaluation.fingerprint import fingerprint
from egrc_mega.evaluation.records import Subject
from egrc_mega.faults import fault_point
from egrc_mega.methods.base import Method
from egrc_mega.methods.registry import build_method
from egrc_mega.observe.console import StepPrinter
from egrc_mega.observe.events import EventLog
from egrc_mega.policy import distributed
from egrc_mega.policy.determinism import make_deterministic
from egrc_mega.policy.engine import Policy
from egrc_mega.policy.layer_spec import parts_in_use
from egrc_mega.run_folder import RunFolder
from egrc_mega.sync.transport import build_transport, check_transport
from egrc_mega.training.accounting import Accounting
from egrc_mega.training.batch import Batch, build_batch, decode, encode
from egrc_mega.training.collection import Position
from egrc_mega.training.coordinator import Coordinator
from egrc_mega.training.metrics import step_record
from egrc_mega.training.schedule import Step, schedule
from egrc_mega.training.update import UpdateMetrics, run_updates

HfTensors = Iterator[tuple[str, torch.Tensor]]


class Run:
    """One training run. Use as a context manager: leaving it stops servers, graders and process groups."""

    def __init__(self, config: Config, *, resume: bool) -> None:
        self.config, self.resume = config, resume
        self.steps = schedule(config.stages)
        self.stack = ExitStack()
        self.accounting = Accounting()

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
        distributed.initialize(config.megatron, config.policy.distributed_timeout_s)
        self.stack.callback(distributed.finalize)
        self.coordinator: Coordinator | None = None
        distributed.on_rank_0(self._start_rank_0)
        self.store = CheckpointStore(config.run.dir / "checkpoints", config.checkpoint.keep)
        keeps_reference = any(stage.loss.kl_coef for stage in config.stages)
        self.policy = Policy(config.model.path, config.megatron, config.policy, keeps_reference=keeps_reference)
        distributed.on_rank_0(self._note_parts)
        self.done = self._restore() if self.resume else 0
        self.publish_weights()

    def _start_rank_0(self) -> bytes:
        config = self.config
        check_transport(config)
        folder = self.stack.enter_context(RunFolder.claim(config.run.dir, resume=self.resume))
        self.folder = folder
        self.printer = self.stack.enter_context(StepPrinter(len(self.steps)))
        self.printer.note(f"run folder {folder.path}; starting servers and graders")
        self.coordinator = Coordinator(config, folder, self.stack, self.printer.note)
        # from here on the folder holds a run
        folder.write_config(config.to_dict())
        self.events = self.stack.enter_context(EventLog(folder.metrics))
        self.events.write("resume" if self.resume else "run", seed=config.run.seed, version=__version__)
        self.sync = build_transport(config, folder.weights, self.coordinator.fleet)
        return b""

    def _note_parts(self) -> bytes:
        """Which implementations the run trains with."""
        parts = parts_in_use(self.config.megatron.transformer_impl)
        self.events.write("parts", **parts)
        self.printer.note("; ".join(f"{purpose}: {part}" for purpose, part in parts.items()))
        return b""

    def _restore(self) -> int:
        # one rank looks, so that all load the same step
        chosen = distributed.on_rank_0(lambda: str(self.store.newest() or "").encode()).decode()
        if not chosen:
            return 0
        state = load(Path(chosen), self.policy)
        if state["seed"] != self.config.run.seed:
            raise RunError(f"run.seed is {self.config.run.seed}, the checkpoint has {state['seed']}: resume with that")
        if self.coordinator:
            # a converted checkpoint has seen no prompts
            prompts = state.get("prompts", {"cursor": 0, "carried": []})
            self.coordinator.position = Position(prompts["cursor"], tuple(prompts["carried"]))
        return int(state["step"])

    def remaining_steps(self) -> Iterator[Step]:
        """The steps that no checkpoint has, in order."""
        for step in self.steps[self.done :]:
            self.accounting = Accounting()
            yield step

    def evaluate(self, point: tuple[str, int]) -> None:
        """Measure the current weights on rank 0, unless the run folder has their numbers already."""
        label, ordinal = point
        hashes: list[str] = []
        self._hand_out_weights(lambda tensors: hashes.append(fingerprint(tensors, self.policy.dtype)))

        def measure() -> bytes:
            assert self.coordinator is not None
            subject = Subject(label=label, ordinal=ordinal, step=self.done, weights=hashes[0])
            for outcome in self.coordinator.evaluator.evaluate(subject):
                self.printer.note(outcome.line())
                self.events.write("evaluation", kept_from=outcome.kept_from, **asdict(outcome.point))
            return b""

        distributed.on_rank_0(measure)

    def open_stage(self, step: Step) -> Method:
        """The stage's method; at its first step the optimizer forgets, if the stage says so."""
        if step.opens_stage and step.stage.optim.reset:
            self.policy.reset_optimizer()
        return build_method(step.stage)

    def collect(self, step: Step, method: Method) -> Batch:
        """Roll out and grade on rank 0; every rank gets the batch."""

        def roll_out() -> bytes:
            assert self.coordinator is not None
            self.collected = self.coordinator.collect(step, method)
            self.accounting.times |= self.collected.times
            return encode(build_batch(self.collected.groups, method, self.version))

        return decode(distributed.on_rank_0(roll_out))

    def sample_ahead(self, step: Step, method: Method) -> None:
        """Begin the next step's batch, where the configuration says so and the stage goes on."""
        if self.coordinator and self.config.rollout.one_step_ahead and not step.closes_stage:
            self.coordinator.sample_ahead(self.steps[step.index + 1], method)

    def update(self, batch: Batch, step: Step) -> UpdateMetrics:
        """The optimizer steps of the batch; with them the step is done. Colocated servers sleep meanwhile."""
        if self.config.rollout.colocated:
            # no rank takes memory that a server still holds
            distributed.on_rank_0(self._free_servers)
        with self.accounting.phase("train"):
            metrics = run_updates(self.policy, batch, step.stage, self.config.policy, step.index_in_stage)
        self.done = step.index + 1
        return metrics

    def _free_servers(self) -> bytes:
        assert self.coordinator is not None
        self.coordinator.fleet.release_memory()
        return b""

    def publish_weights(self) -> None:
        """Move every server to the current weights, named after the number of steps they have seen."""
        with self.accounting.phase("sync"):
            architecture, dtype = self.policy.architecture, self.policy.dtype
            self._hand_out_weights(lambda tensors: self.sync.publish(tensors, architecture, dtype, self.version))

    def record(self, step: Step, method: Method, update: UpdateMetrics, version: str) -> None:
        """Write the step to `metrics.jsonl` and show its line."""
        if self.coordinator:
            costs = self.accounting.record(update.work, self.config.policy.peak_tflops)
            costs |= self.coordinator.fleet.take_stats()
            costs |= self.collected.counts
            record = step_record(step, method, self.collected.groups, update, costs, version)
            self.events.write("step", **record)
            self.printer.show(record)

    def commit(self, step: Step) -> None:
        """Save a checkpoint when one is due. After this the step is never computed again."""
        fault_point("train.before_commit", self.done)
        if self.done % self.config.checkpoint.every and not step.closes_stage:
            return
        started = time.monotonic()
        position = self.coordinator.position if self.coordinator else Position(0, ())
        state = {"seed": self.config.run.seed, "stage": step.stage.name, "prompts": asdict(position)}
        self.store.save(self.done, self.policy, state, is_stage_end=step.closes_stage)
        if self.coordinator:
            self.events.write("checkpoint", step=self.done, time_s=time.monotonic() - started)
        fault_point("train.after_commit", self.done)

    def finish(self) -> None:
        """Measure the last point and export the Hugging Face folder."""
        self.evaluate((self.steps[-1].stage.name, len(self.config.stages)))

        def export(tensors: HfTensors) -> None:
            architecture, source = self.policy.architecture, self.policy.companions
            # in the dtype that the model came in
            dtype = getattr(torch, architecture.dtype) if architecture.dtype else self.policy.dtype
            write_folder(
                self.folder.export, tensors, architecture=architecture, source=source, dtype=dtype, durable=True
            )
            self.events.write("end", step=self.done)

        self._hand_out_weights(export)

    def _hand_out_weights(self, take: Callable[[HfTensors], None]) -> None:
        """Give rank 0's `take` the whole tensors; the other ranks join the gathering, then learn how it ended."""
        tensors = self.policy.export_hf()

        def take_all() -> bytes:
            try:
                take(tensors)
            except Exception:
                # the others are still gathering: they hear of it once they are through
                for _name, _tensor in tensors:
                    pass
                raise
            return b""

        if self.coordinator is None:
            for _name, _tensor in tensors:
                pass
        distributed.on_rank_0(take_all)

    @property
    def version(self) -> str:
        """Name of the policy's weights: how many steps they have seen."""
        return f"v{self.done}"
