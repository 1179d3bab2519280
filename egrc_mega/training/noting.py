"""What rank 0 keeps of a run in `metrics.jsonl`, and says of it: a method for each thing that may happen."""

from collections.abc import Sequence
from pathlib import Path

from egrc_mega.checkpoint.pointers import BEST, point
from egrc_mega.checkpoint.store import Outcome
from egrc_mega.config.config import Config
from egrc_mega.errors import HealthError
from egrc_mega.observe.console import StepPrinter
from egrc_mega.observe.events import EventLog
from egrc_mega.policy.engine import Policy
from egrc_mega.policy.layer_spec import parts_in_use
from egrc_mega.run_folder import RunFolder
from egrc_mega.sections.evaluation import BestSection
from egrc_mega.stages.best import Best, Score, said
from egrc_mega.stages.health import Alarm
from egrc_mega.stages.progress import Switch
from egrc_mega.training.conclusion import conclusion
from egrc_mega.training.turn import Turn

NOTHING_TO_RESUME = "resuming from the beginning: no step of this run is committed"


class NotingLead:
    """What the lead keeps and says, with parts that it has."""

    config: Config
    folder: RunFolder
    printer: StepPrinter
    events: EventLog

    def note_resume(self, step: int, checkpoint: Path | None) -> None:
        """Say from which step the run goes on."""
        found = f"resuming from step {step}: checkpoints/{checkpoint.name}" if checkpoint else NOTHING_TO_RESUME
        self.printer.note(found)

    def note_parts(self) -> None:
        """Say and keep which implementations the run trains with."""
        parts = parts_in_use(self.config.megatron.transformer_impl, self.config.policy.fused_output_layer)
        self.events.write("parts", **parts)
        self.printer.note("; ".join(f"{purpose}: {part}" for purpose, part in parts.items()))

    def note_stage(self, turn: Turn) -> None:
        """Say which stage begins."""
        most = "at most " if turn.stage.plateau else ""
        self.printer.note(f"stage {turn.stage.name} begins: {most}{turn.stage.steps} steps of {turn.stage.method}")

    def note_switch(self, switch: Switch) -> None:
        """Keep and say why a stage has ended."""
        self.events.write("switch", **switch.model_dump())
        self.printer.note(f"stage {switch.ended} ends after {switch.steps_in_stage} steps: {switch.reason}")

    def note_save(self, outcome: Outcome) -> None:
        """Keep how a save has ended; say so when there is no checkpoint of it."""
        step, seconds, problem = outcome.step, outcome.seconds, outcome.problem
        if problem is None:
            self.events.write("committed", step=step, seconds=seconds)
            return
        self.events.write("checkpoint_failed", step=step, seconds=seconds, problem=problem)
        self.printer.note(f"checkpoint of step {step} is not written, the run goes on: {problem}")

    def note_alarms(self, step: int, alarms: Sequence[Alarm]) -> None:
        """Keep and say what is ill."""
        for alarm in alarms:
            self.events.write("alarm", step=step, name=alarm.name, text=alarm.text)
            self.printer.note(f"alarm ({alarm.name}): {alarm.text}")

    def give_up(self, step: int, place: str, reasons: Sequence[str]) -> None:
        """End the run by its alarms after a step; `place` says what is committed.

        Raises:
            HealthError: with what is ill.
        """
        self.events.write("stop", step=step, reason="; ".join(reasons))
        raise HealthError(f"health.stop ends the run {place}: {'; '.join(reasons)}; --resume goes on from there")

    def note_best(self, by: BestSection, score: Score) -> None:
        """Point at the checkpoint that is the best so far, and say so."""
        point(self.folder.path / "checkpoints", BEST, score.step)
        self.events.write("best", **score.model_dump(), metric=by.metric, set=by.set, temperature=by.temperature)
        self.printer.note(f"best checkpoint so far: step {score.step}, {said(by, score)}")

    def note_stop(self, step: int, reason: str) -> None:
        """Keep and say why the run ends before its last step."""
        self.events.write("stop", step=step, reason=reason)
        self.printer.note(f"the run ends after step {step}: {reason}")

    def end(self, step: int, policy: Policy, best: Best) -> None:
        """Keep that all is done."""
        dtype = str(policy.dtype).removeprefix("torch.")
        self.events.write("end", step=step, dtype=dtype, best=best.model_dump(mode="json"))

    def conclude(self, best: Best) -> None:
        """Say at the end what came of it, where it is, and what may come next."""
        for line in conclusion(self.config.run.dir, best):
            self.printer.note(line)
