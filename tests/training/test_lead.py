"""What rank 0 hands from part to part: measurements to their samples, one lesson to batch, record and rollouts."""

from contextlib import ExitStack
from dataclasses import asdict, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from egrc_mega.evaluation.evaluator import Outcome
from egrc_mega.methods.explore import ExploreSection
from egrc_mega.methods.method import OF_THE_REFERENCE, Method, Need, NoState
from egrc_mega.methods.records import DROPPED, Credit, View
from egrc_mega.policy.pass_sums import TokenStats
from egrc_mega.rollout.restarts import RestartBudget
from egrc_mega.sections.policy import PolicySection
from egrc_mega.stages.state import Position, Spent
from egrc_mega.testing.points import make_point, make_protocol, make_subject
from egrc_mega.testing.samples import make_group, make_sample
from egrc_mega.trackers.children import Trackers
from egrc_mega.training import lead as lead_module
from egrc_mega.training.collection import StepGroups
from egrc_mega.training.gate import GateWatch
from egrc_mega.training.lead import Lead
from egrc_mega.training.noting import NOTHING_TO_RESUME
from egrc_mega.training.replay import collected_as
from egrc_mega.training.stored import stored_groups
from egrc_mega.training.turn import Turn
from egrc_mega.training.update import UpdateMetrics
from egrc_mega.types import Ask, FinishReason, Grade, Group, Problem, VersionSpan

SIZES = ((2, 3), (1, 4, 2))
SECTION = ExploreSection()


class Counting(Method[ExploreSection, NoState]):
    """Keeps every graded sample, and counts how often it is asked."""

    num_asked = 0

    def credit(self, groups: Any, view: View) -> list[list[Credit]]:
        self.num_asked += 1
        return [
            [DROPPED if s.grade is Grade.UNGRADED else Credit(advantage=1.0, reward=float(s.length)) for s in g.samples]
            for g in groups
        ]


def groups() -> list[Group]:
    """Outputs 0, 1, 2, ... without an end, so that each token says where it is."""
    start, found = 0, []
    for row in SIZES:
        samples = []
        for size in row:
            grade = Grade.UNGRADED if size == 4 else Grade.RIGHT
            samples.append(make_sample(range(start, start + size), version="v5", grade=grade))
            start += size
        found.append(make_group(samples))
    return found


def turn_of(*needs: Need) -> Turn:
    method = Counting(SECTION)
    method.needs = frozenset(needs)  # type: ignore[misc]
    return Turn(5, 5, SECTION, method, View(step=5, state=NoState(), seed=1), "v5")


@pytest.fixture
def lead() -> Lead:
    own = Lead.__new__(Lead)
    own.collected = StepGroups(groups(), Position(), {"sampled_groups": 7})
    return own


def test_a_resume_says_its_step_and_that_there_may_be_none(lead: Lead) -> None:
    said: list[str] = []
    lead.printer = SimpleNamespace(note=said.append)  # type: ignore[assignment]
    lead.note_resume(50, Path("runs/x/checkpoints/step_000050"))
    lead.note_resume(0, None)
    assert said == ["resuming from step 50: checkpoints/step_000050", NOTHING_TO_RESUME]


def test_all_samples_are_measured_in_order_and_none_is_trained_on(lead: Lead) -> None:
    batch = lead.to_measure(turn_of())
    assert batch.updates == ()
    assert np.concatenate([sample.output_ids for sample in batch.dropped]).tolist() == list(range(12))


@pytest.mark.parametrize(
    "needs",
    [
        ("entropies",),
        ("reference_logprobs",),
        ("entropies", "reference_logprobs"),
        ("reference_kl",),
        (),
    ],
)
def test_each_sample_gets_the_measurements_of_its_own_tokens_where_the_method_needs_them(
    lead: Lead, needs: tuple[Need, ...]
) -> None:
    flat = torch.arange(12.0)
    stats = TokenStats(-flat, 7 * flat, 2 * flat)
    lead.note_measured(turn_of(*needs), stats, -3 * flat if set(needs) & OF_THE_REFERENCE else None)
    assert [len(group.samples) for group in lead.collected.groups] == [2, 3]
    for sample in (sample for group in lead.collected.groups for sample in group.samples):
        ids = sample.completion.output_ids
        for name, own, factor in (
            ("entropies", sample.entropies, 2),
            ("reference_logprobs", sample.reference_logprobs, -3),
            ("reference_kl", sample.reference_kl, -1 - -3),
        ):
            assert (None if own is None else own.tolist()) == ((factor * ids).tolist() if name in needs else None)
    assert lead.collected.counts == {"sampled_groups": 7}


def test_the_method_is_asked_once_and_batch_record_and_rollouts_have_its_answer(lead: Lead) -> None:
    turn, written = turn_of(), {}
    batch = lead.credit(turn)
    assert [[s.output_ids.tolist() for s in update] for update in batch.updates] == [[[0, 1], [2, 3, 4], [5], [10, 11]]]
    lead.gate_watch = GateWatch(PolicySection(), torch.float32)
    lead.trackers = Trackers((), Path(), print)
    lead.serving = SimpleNamespace(fleet=SimpleNamespace(take_stats=lambda: {"lost_requests": 2}))  # type: ignore[assignment]
    lead.events = SimpleNamespace(write=lambda kind, **facts: written.update({kind: facts}))  # type: ignore[assignment]
    lead.rollouts = SimpleNamespace(
        write=lambda step, stage, rows, **at: written.update(rows=(step, stage, rows), at=at)
    )  # type: ignore[assignment]
    lead.printer = SimpleNamespace(show=lambda record, num_evaluations: written.update(shown=record))  # type: ignore[assignment]
    lead.gate_watch = SimpleNamespace(warnings=lambda record: ())  # type: ignore[assignment]
    lead.trackers = SimpleNamespace(check=lambda: None)  # type: ignore[assignment]
    update = UpdateMetrics(**{field.name: None for field in fields(UpdateMetrics)} | {"num_updates": 1})  # type: ignore[arg-type]
    record = lead.record(turn, update, {"time_step_s": 2.0}, 9)
    assert turn.method.num_asked == 1
    assert written["step"] == written["shown"] == record
    assert (record["reward"], record["kept"], record["ungraded"]) == (2.0, 0.8, pytest.approx(0.2))
    assert (record["lost_requests"], record["sampled_groups"]) == (2, 7)
    step, stage, rows = written["rows"]
    assert (step, stage) == (6, "explore")
    assert [[s.reward for s in row.samples] for row in rows] == [[2.0, 3.0], [1.0, None, 2.0]]
    assert written["at"] == {
        "step_in_stage": turn.step_in_stage,
        "state": turn.view.state.model_dump(),
        "collected": collected_as(lead.collected, turn),
    }


def noting(lead: Any) -> list[tuple[Any, ...]]:
    """Whatever the lead writes, shows and says, in order."""
    notes: list[tuple[Any, ...]] = []
    lead.events = SimpleNamespace(write=lambda kind, **facts: notes.append((kind, facts)))
    lead.printer = SimpleNamespace(
        show=lambda record, num_evaluations: notes.append(("shown", record["step"])),
        note=lambda line: notes.append(("line", line)),
        note_pause=lambda seconds: None,
    )
    lead.rollouts = SimpleNamespace(
        write=lambda step, stage, rows, **at: notes.append(("rollouts", step, stage, len(rows)))
    )
    lead.serving = SimpleNamespace(fleet=SimpleNamespace(take_stats=dict))
    return notes


def test_a_gate_that_falls_silent_is_an_event_of_its_step_and_a_line_after_the_step(lead: Any) -> None:
    lead.trackers = Trackers((), Path(), print)
    lead.gate_watch = SimpleNamespace(warnings=lambda record: (f"silent in {record['step']}",))
    lead.trackers = SimpleNamespace(check=lambda: None)
    turn, notes = turn_of(), noting(lead)
    lead.credit(turn)
    update = UpdateMetrics(**{field.name: None for field in fields(UpdateMetrics)} | {"num_updates": 1})  # type: ignore[arg-type]
    lead.record(turn, update, {"time_step_s": 2.0}, 9)
    assert [note[0] for note in notes] == ["step", "rollouts", "shown", "warning", "line"]
    assert notes[1:] == [
        ("rollouts", 6, "explore", 2),
        ("shown", 6),
        ("warning", {"step": 6, "text": "silent in 6"}),
        ("line", "silent in 6"),
    ]


def test_an_evaluation_is_a_line_and_an_event_with_every_figure_and_where_it_comes_from(lead: Any) -> None:
    protocol = make_protocol()
    points = [make_point(make_subject("base", 0, 0), protocol), make_point(make_subject("b", 1, 5), protocol, None)]
    outcomes = [Outcome(points[0], None), Outcome(points[1], "base")]
    notes, asked = noting(lead), []
    lead.serving = SimpleNamespace(
        evaluator=SimpleNamespace(evaluate=lambda subject: asked.append(subject) or outcomes),
        fleet=SimpleNamespace(forget_rates=lambda: notes.append(("rates", None))),
    )
    lead.config = SimpleNamespace(evaluation=SimpleNamespace(best=None))
    assert lead.evaluate(make_subject("b", 1, 5)) is None
    assert asked == [make_subject("b", 1, 5)]
    assert [note for note in notes if note[0] == "line"] == [("line", outcome.line()) for outcome in outcomes]
    # what the servers were asked for is no step's
    assert notes[-1] == ("rates", None)
    events = [facts for kind, facts in notes if kind == "evaluation"]
    assert events == [{"kept_from": None, **asdict(points[0])}, {"kept_from": "base", **asdict(points[1])}]


def test_samples_that_are_only_measured_are_compared_under_the_turns_own_weights(lead: Lead) -> None:
    assert all(sample.compared.all() for sample in lead.to_measure(turn_of()).dropped)
    batch = lead.credit(turn_of())
    assert all(sample.compared.all() for sample in (*batch.dropped, *batch.updates[0]))
    other = replace(turn_of(), version="v6")
    assert not any(sample.compared.any() for sample in lead.to_measure(other).dropped)
    batch = lead.credit(other)
    assert not any(sample.compared.any() for sample in (*batch.dropped, *batch.updates[0]))


def test_what_is_stored_of_a_sample_is_what_it_was_and_what_it_taught() -> None:
    problem = Problem(key="k", text="1 + 1", answer="2")
    sample = make_sample(
        [5, 6, 7], sampled=[1, 0, 1], problem=problem, ask=Ask(tag="short"), finish=FinishReason.LENGTH
    )
    spans = (VersionSpan(version="v1", start=0, end=2), VersionSpan(version="v2", start=2, end=3))
    sample = replace(
        sample,
        text="abc",
        well_formed=False,
        entropies=np.array([0.1, 0.2, 0.3], np.float32),
        completion=replace(sample.completion, weight_versions=spans),
    )
    other = make_sample([9], problem=problem, grade=Grade.WRONG)
    credits = [
        [Credit(advantage=-0.5, reward=0.25, terms={"answer": 0.25}), Credit(advantage=np.array([2.0]), kept=False)]
    ]
    [group] = stored_groups([make_group([sample, other])], credits)
    assert (group.key, group.prompt, group.answer) == ("k", "1 + 1", "2")
    first, second = group.samples
    assert first.output_ids.tolist() == [5, 6, 7]
    assert first.sampled.tolist() == [True, False, True]
    assert first.logprobs.tolist() == [-1.0, 0.0, -1.0]
    assert first.entropies is sample.entropies
    assert (first.text, first.grade, first.well_formed, first.truncated) == ("abc", "right", False, True)
    assert (first.reward, first.terms, first.advantage, first.kept) == (0.25, {"answer": 0.25}, -0.5, True)
    assert (first.versions, first.tag) == (spans, "short")
    assert (second.grade, second.kept, second.truncated, second.tag) == ("wrong", False, False, "")
    assert isinstance(second.advantage, np.ndarray) and second.advantage.dtype == np.float32


@pytest.fixture
def unopened(monkeypatch: pytest.MonkeyPatch) -> Lead:
    """A lead whose servers and problems are to be opened, all of them mocks."""
    names = "check_transport", "special_tokens", "read_problems", "training_profile", "prove_asks", "Planner"
    for name in (*names, "ProblemSource", "Collector"):
        monkeypatch.setattr(lead_module, name, MagicMock())
    lead = object.__new__(Lead)
    lead.config, lead.folder, lead.printer = MagicMock(), MagicMock(), MagicMock()
    return lead


def test_all_servers_begin_to_start_before_any_is_waited_for(unopened: Lead, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def started(name: str) -> Any:
        seen.append(f"{name} start")
        part = MagicMock()
        wait = part if name == "spare servers" else part.fleet
        wait.wait_until_ready = lambda: seen.append(f"{name} are there")
        part.__enter__.return_value = part
        return part

    monkeypatch.setattr(lead_module, "Serving", lambda *_: started("servers"))
    monkeypatch.setattr(lead_module, "Spare", lambda *_: started("spare servers"))
    with ExitStack() as stack:
        unopened._open_servers(MagicMock(), stack, Spent())
    assert seen == ["servers start", "spare servers start", "servers are there", "spare servers are there"]


def test_a_run_begins_with_what_was_spent_of_its_budgets_and_adds_each_steps_refusals(
    unopened: Lead, monkeypatch: pytest.MonkeyPatch
) -> None:
    lead, serving, collectors = unopened, MagicMock(), []
    serving.fleet.restarts = RestartBudget(3, 3600.0)
    monkeypatch.setattr(lead_module, "Serving", lambda *_: serving)
    monkeypatch.setattr(lead_module, "Collector", lambda *parts: collectors.append(parts))
    lead.config.evaluation.spare = None
    lead._open_servers(MagicMock(), MagicMock(), Spent(refused=5, restarts=(60.0, 10.0)))
    assert collectors[0][-1] == 5
    assert serving.fleet.restarts.take() and not serving.fleet.restarts.take()
    lead.collected = StepGroups([], Position(), {"refused_groups": 2}, 0.0)
    after = lead.spent(Spent(refused=5, restarts=(60.0, 10.0)))
    assert after.refused == 7 and [round(age) for age in after.restarts] == [60, 10, 0]
