"""A run that only samples: rollout files of every step by the model's first weights, without a trainer."""

from dataclasses import fields
from typing import Any, NoReturn

from egrc_mega.config.config import Config
from egrc_mega.errors import ConfigError, Stopped
from egrc_mega.methods.method import OF_THE_REFERENCE, build_method
from egrc_mega.observe.spans import RECORDER
from egrc_mega.policy import distributed
from egrc_mega.policy.flops import Work
from egrc_mega.rollout.weights import FolderWeights
from egrc_mega.stop_signal import StopSignal
from egrc_mega.training.commits import open_store
from egrc_mega.training.run import Run
from egrc_mega.training.update import UpdateMetrics
from egrc_mega.training.verbs import watch_for_hangs

OPTION = "--rollouts-only"
NOTHING: Any = {field.name: None for field in fields(UpdateMetrics)} | {"num_updates": 0, "work": Work()}
"""Fields of an update that nobody has made."""


def sample_rollouts(config: Config) -> None:
    """Sample, grade and credit every step of the stages, write their rollouts, and end.

    Raises:
        EgrcError: the configuration needs a trainer, or a server cannot be used.
    """
    require_no_trainer(config)
    # nobody trains, which is nothing to warn of, and nobody evaluates; weights that stay are never too old
    mode = "ahead" if config.rollout.mode == "async" else config.rollout.mode
    calm = {
        "rollout": config.rollout.model_copy(update={"mode": mode}),
        "evaluation": config.evaluation.model_copy(update={"spare": None}),
        "health": config.health.model_copy(update={"no_update_steps": None}),
        "policy": config.policy.model_copy(update={"logprob_check": False}),
    }
    with SamplingRun(config.model_copy(update=calm), resume=False) as run:
        assert run.lead is not None
        run.lead.printer.expect_no_updates()
        while turn := run.turn():
            if turn.opens_stage:
                run.lead.note_stage(turn)
            run.collect(turn)
            run.sample_ahead(turn)
            run.credit(turn)
            run.record(turn, UpdateMetrics(**NOTHING))
        run.lead.printer.note(f"rollouts: {run.lead.rollouts.folder}; train on them with --replay-rollouts")


def require_no_trainer(config: Config) -> None:
    """Refuse what a run without a trainer cannot do.

    Raises:
        ConfigError: naming the field.
    """
    if not config.observe.rollouts_gib:
        raise ConfigError(f"observe.rollouts_gib: 0, but {OPTION} makes nothing else; give it room")
    if config.run.replay_rollouts is not None:
        raise ConfigError(f"{OPTION}: samples, and --replay-rollouts does not; give one of them")
    for stage in config.stages:
        measured = build_method(stage).measures & {"entropies", *OF_THE_REFERENCE}
        if measured:
            what = ", ".join(sorted(measured))
            raise ConfigError(f"stages.{stage.name}.method: {stage.method} needs {what}, which only a trainer computes")


class SamplingRun(Run):
    """Its lead works, and its policy is not there."""

    def _start(self) -> None:
        config = self.config
        distributed.initialize(config.megatron, config.policy.distributed_timeout_s, config.run.lead_timeout_s)
        self.stack.callback(distributed.finalize)
        RECORDER.rank = 0
        self.watch = self.stack.enter_context(watch_for_hangs(config))
        self.stop = self.stack.enter_context(StopSignal(config.run.stop_grace_s, answers=True))
        self.store = open_store(config)
        self._start_lead()
        assert self.lead is not None
        self.lead.note_processes(self.watch.peers)
        # samples get their name; servers start with another one, and external ones may have other weights
        self.lead.serving.fleet.update_weights(FolderWeights(config.model.path, self.state.version))

    def _end_early(self, by: str = "SIGTERM") -> NoReturn:
        raise Stopped(f"stopped by {by}; the rollouts of {self.state.progress.step} steps are there")
