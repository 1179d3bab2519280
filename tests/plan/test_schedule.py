"""The simulation of the modes keeps its laws: nothing is lost, nothing is too old, and every second has its place."""

import math
import random
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest

from egrc_mega.plan.constants import CONSTANTS
from egrc_mega.plan.generation import Server, batch_seconds
from egrc_mega.plan.gpus import find_gpu
from egrc_mega.plan.lengths import Lengths
from egrc_mega.plan.published import model_of
from egrc_mega.plan.schedule.balance import with_equal_phases, with_equal_work
from egrc_mega.plan.schedule.law import NIM_STEP_S, PlannedLaw, TabledLaw, planned_law
from egrc_mega.plan.schedule.modes import MODES, Coordinator, Sync
from egrc_mega.plan.schedule.responses import Responses
from egrc_mega.plan.schedule.server import Job, LoadedServer
from egrc_mega.plan.schedule.setting import Outcome, Setting, Window

WINDOW = Window(8, 2)
ALL = Window(8)


@dataclass
class Linear:
    """A step takes one second, a hundredth more for each that runs, and a thousandth for each token that is read."""

    kv_tokens: float = math.inf
    kv_token_s: float = 0.001

    def dense_s(self, num_running: int) -> float:
        return 1 + num_running / 100

    def prefill_s(self, num_tokens: float) -> float:
        return num_tokens / 50


@dataclass(frozen=True, slots=True)
class Equal(Responses):
    """Responses of one length."""

    def of(self, place: int, count: int, attempt: int = 0) -> np.ndarray:
        return np.full(count, int(self.mean), np.int64)


def setting(**fields: object) -> Setting:
    """Three servers, five problems of four responses a step."""
    base = Setting(Linear(), 3, 5, 4, Responses(mean=60), 10, 0.05, write_s=2.0, load_s=3.0)
    return replace(base, **fields)


@cache
def ran(mode: str) -> tuple[Coordinator, Outcome]:
    """A run of the usual setting."""
    run = MODES[mode](setting(), WINDOW)
    return run, run.run()


@cache
def law() -> PlannedLaw:
    return planned_law(model_of("deepseek-r1-distill-qwen-7b"), find_gpu("h100"))


def answered(server: LoadedServer, hops: int = 1) -> list[tuple[float, Job]]:
    """What a server answers, and when; between two events it is looked at so often."""
    found = []
    while (moment := server.next_event()) < math.inf:
        start = server.now
        for hop in range(1, hops):
            assert server.advance(start + (moment - start) * hop / hops) == []
        found += [(server.now, job) for job in server.advance(max(moment, server.now))]
    return found


def jobs(*lengths: int) -> list[Job]:
    return [Job(number, length, 10) for number, length in enumerate(lengths)]


def test_a_server_that_runs_one_request_takes_the_time_of_its_steps() -> None:
    server = LoadedServer(Linear())
    server.add(jobs(30))
    steps = sum(1.01 + 0.001 * (10 + done + 0.5) for done in range(30))
    assert [(moment, job.key) for moment, job in answered(server)] == [(pytest.approx(steps), 0)]


def test_the_times_of_a_server_do_not_depend_on_how_often_it_is_looked_at() -> None:
    ends = []
    for hops in (1, 7):
        server = LoadedServer(Linear(kv_tokens=120))
        server.add(jobs(30, 5, 44, 12, 60, 1))
        ends.append([(job.key, moment) for moment, job in answered(server, hops)])
        assert server.num_tokens == pytest.approx(152) and server.seconds.total == pytest.approx(server.now)
    assert [key for key, _moment in ends[0]] == [key for key, _moment in ends[1]]
    assert [moment for _key, moment in ends[0]] == pytest.approx([moment for _key, moment in ends[1]])


def test_a_request_waits_for_memory_and_those_behind_it_wait_too() -> None:
    server = LoadedServer(Linear(kv_tokens=100))
    server.add(jobs(70, 50, 5))
    assert (len(server.running), len(server.waiting)) == (1, 2)
    assert [job.key for _moment, job in answered(server)] == [0, 2, 1]


def test_a_pause_moves_all_ends_and_new_weights_are_paid_for_in_contexts() -> None:
    plain, moved = LoadedServer(Linear()), LoadedServer(Linear())
    for server in (plain, moved):
        server.add(jobs(20, 40))
    assert moved.advance(10.0) == []
    contexts = moved.contexts
    moved.pause()
    moved.advance(13.0)
    moved.load(1)
    moved.resume(recompute=True)
    late = 3 + contexts / 50
    ends = answered(moved)
    assert [moment - late for moment, _job in ends] == pytest.approx([moment for moment, _job in answered(plain)])
    assert moved.seconds.stalled == pytest.approx(late)
    for _moment, job in ends:
        (old, start, middle), (new, same, end) = job.spans
        assert (old, start, new, same, end) == (0, 0, 1, middle, job.length)


@pytest.mark.parametrize("mode", MODES)
def test_every_group_is_trained_once_and_whole(mode: str) -> None:
    run, _outcome = ran(mode)
    every = [place for step in MODES[mode](setting(), ALL).run().steps for place in step.places]
    assert sorted(every) == list(range(40)) and run.num_sent == 40 and not run.open
    for step in run.steps:
        assert step.lags.total() == step.num_tokens and step.oldest.total() == len(step.places) == 5


@pytest.mark.parametrize("mode", MODES)
def test_every_second_of_every_server_has_its_place(mode: str) -> None:
    run, outcome = ran(mode)
    for server in run.servers.all:
        assert server.seconds.total == pytest.approx(run.servers.now) == pytest.approx(server.now)
    assert outcome.servers.total == pytest.approx(3 * outcome.seconds)
    trained = sum(step.num_tokens for step in MODES[mode](setting(), ALL).run().steps)
    assert sum(server.num_tokens for server in run.servers.all) == pytest.approx(trained)


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_trained_that_is_older_than_the_bound(mode: str) -> None:
    rng = random.Random(7)
    for staleness in (0, 1, 2, 4):
        bound = {"sync": 0, "ahead": 1}.get(mode, staleness)
        quick = setting(
            max_staleness=staleness, train_token_s=rng.choice([0.0, 0.03, 0.3]), load_s=rng.choice([0.0, 30.0])
        )
        steps = MODES[mode](quick, ALL).run().steps
        lags = sum((step.lags for step in steps), Counter())
        assert max(lags) <= bound and max(max(step.oldest) for step in steps) <= bound
        if mode == "async":
            assert max(lags) == staleness  # it is used


def test_a_synchronous_step_is_generation_training_and_sync_one_after_the_other() -> None:
    """20 responses of one length in three servers: 8, 8 and 4 of them."""
    plain = setting(responses=Equal(mean=50), recomputes=False)
    longest = sum(1.08 + 0.001 * 8 * (10 + done + 0.5) for done in range(50))
    outcome = Sync(plain, WINDOW).run()
    train_s = 0.05 * 20 * 60
    assert outcome.summary(6)["step_s"] == pytest.approx(longest + train_s + 2 + 3)
    assert outcome.summary(6)["trainer_idle"] == pytest.approx(1 - train_s / (longest + train_s + 5))
    assert outcome.servers.stalled / outcome.seconds == pytest.approx(3 * 3 / (longest + train_s + 5))


@pytest.mark.parametrize("train_token_s", [0.005, 0.5])
def test_one_step_ahead_takes_the_longer_phase(train_token_s: float) -> None:
    """Where generation is the longer one the load falls into it, and moves its end."""
    plain = setting(responses=Equal(mean=50), recomputes=False, train_token_s=train_token_s)
    longest = sum(1.08 + 0.001 * 8 * (10 + done + 0.5) for done in range(50))
    train_s = train_token_s * 20 * 60
    expected = max(train_s + 2 + 3, longest + 3)
    assert MODES["ahead"](plain, WINDOW).run().summary(6)["step_s"] == pytest.approx(expected, rel=0.02)


def test_asynchronous_steps_take_as_long_as_training_where_servers_are_quick() -> None:
    outcome = MODES["async"](setting(train_token_s=0.5, responses=Equal(mean=50)), WINDOW).run()
    assert outcome.summary(6)["step_s"] == pytest.approx(0.5 * 20 * 60 + 2)
    assert outcome.summary(6)["groups_by_oldest_lag"] == {"2": 1.0}


def test_lengths_are_log_normal_capped_and_the_same_for_whoever_asks() -> None:
    responses = Responses(mean=4096)
    lengths = responses.of(3, 200_000)
    logs = np.log(lengths[lengths < responses.cap])
    assert lengths.max() == responses.cap == 8 * 4096 and abs(lengths.mean() / 4096 - 1) < 0.02
    assert abs(logs.std() - 0.8) < 0.02 and abs((lengths == responses.cap).mean() - 0.00134) < 0.0005
    assert (responses.of(3, 5) == responses.of(3, 5)).all() and (responses.of(3, 5) != responses.of(3, 5, 1)).any()


def test_responses_to_one_problem_share_the_part_of_the_variance_that_is_asked_for() -> None:
    logs = np.log([Responses(mean=1e6, group_share=0.5, cap_ratio=1e6).of(place, 8) for place in range(3000)])
    between = logs.mean(axis=1).var() - logs.var(axis=1, ddof=1).mean() / 8
    assert abs(between / 0.64 - 0.5) < 0.05


def test_a_batch_takes_as_long_as_the_planner_says() -> None:
    """The planner reckons in strides, from the same law."""
    lengths = Lengths(4096, 16384)
    size, count = law().costs.server, 128

    class Quantiles(Responses):
        def of(self, place: int, count: int, attempt: int = 0) -> np.ndarray:
            return np.ceil(np.random.default_rng(0).permutation(lengths.quantiles(count)) + 1).astype(np.int64)

    one = Setting(law(), 1, 1, count, Quantiles(4096), 120, 0.0, 0.0, 0.0)
    server = Server(size.model, size.gpu, 1, int(law().kv_tokens))
    planned = batch_seconds(server, count, 1, lengths, 120, CONSTANTS)
    assert Sync(one, Window(1)).run().steps[0].wait_s == pytest.approx(planned, rel=0.03)


def test_phases_are_balanced_as_asked_for() -> None:
    plain = replace(setting(), law=law(), responses=Responses(mean=2048))
    for ratio in (1.0, 2.0):
        steps = Sync(with_equal_phases(plain, ALL, ratio), ALL).run().steps
        assert sum(s.wait_s for s in steps) == pytest.approx(ratio * sum(s.train_s for s in steps))


def test_work_is_balanced_where_a_server_that_is_always_full_keeps_up_with_the_trainer() -> None:
    plain = setting(law=law(), responses=Responses(mean=2048), num_servers=1, prompts_per_step=8)
    server, ended, place = LoadedServer(law()), 0, 100
    server.add([Job(0, int(length), 10) for length in plain.responses.of(0, 32)])
    while ended < 1500:
        done = server.advance(server.next_event())
        if ended < 300 <= ended + len(done):  # the first ones are all equally old
            begun, before = server.now, server.num_tokens
        ended, place = ended + len(done), place + 1
        server.add([Job(0, int(length), 10) for length in plain.responses.of(place, len(done))])
    rate = (server.num_tokens - before) / (server.now - begun)
    tokens = 32 * int(plain.responses.of(0, 100_000).mean())
    assert tokens / rate == pytest.approx(with_equal_work(plain).train_s(tokens, 32), rel=0.05)


def test_a_printed_curve_of_decoding_is_met_at_its_points_and_straight_between_and_beyond_them() -> None:
    printed = TabledLaw(law())
    assert [1000 * printed.dense_s(count) for count in NIM_STEP_S] == pytest.approx(list(NIM_STEP_S.values()))
    assert 1000 * printed.dense_s(225) == pytest.approx((12.65 + 16.14) / 2)
    assert 1000 * printed.dense_s(300) == pytest.approx(16.14 + (16.14 - 12.65))
    assert printed.prefill_s(1000) == law().prefill_s(1000) and printed.kv_tokens == law().kv_tokens
