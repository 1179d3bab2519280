"""A server's states follow each other as the table says, and requests wait for one that serves."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from egrc_mega.errors import RolloutError
from egrc_mega.rollout.client import ServerClient, open_session
from egrc_mega.rollout.fleet import Fleet
from egrc_mega.rollout.restarts import LONGEST_BACKOFF_S, RestartBudget
from egrc_mega.rollout.server import Server
from egrc_mega.rollout.state import NEXT, State
from egrc_mega.rollout.versions import Versions
from egrc_mega.rollout.weights import FolderWeights, all_of
from egrc_mega.sections.rollout import RolloutSection
from egrc_mega.testing.fake_server import GARBAGE, FakeServer
from egrc_mega.testing.samples import PROMPT_IDS
from egrc_mega.types import Completion, FinishReason, RolloutRequest, Sampling, VersionSpan, token_array

SAMPLING = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=4, stop_token_ids=())
REQUEST = RolloutRequest(rid="r", prompt_id="p", prompt_ids=PROMPT_IDS, sampling=SAMPLING, seed=1)


def attach(fake: FakeServer, tmp_path: Path, **fields: Any) -> Fleet:
    section = RolloutSection(server="external", urls=(fake.url,), **fields)
    return Fleet.start(section, tmp_path, "v0", tmp_path)


def watched(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> list[State]:
    """The states that the fleet's server goes through from here on."""
    seen: list[State] = []
    become = Server.become

    def noting(server: Server, state: State) -> None:
        become(server, state)
        seen.append(state)

    monkeypatch.setattr(Server, "become", noting)
    assert fleet.servers[0].state is State.SERVING
    return seen


def server() -> Server:
    async def build() -> Server:
        session = await open_session()
        await session.close()
        return Server(0, ServerClient(session, "http://nowhere", 1.0), asyncio.Event())

    return asyncio.run(build())


@pytest.mark.parametrize("after", State)
@pytest.mark.parametrize("state", State)
def test_a_state_follows_another_where_the_table_says_so_and_is_said_to_have_changed(
    state: State, after: State
) -> None:
    found = server()
    found.state = after
    if state in NEXT[after]:
        found.become(state)
        assert (found.state, found.changed.is_set()) == (state, True)
    else:
        with pytest.raises(RuntimeError, match=f"a server that is {after} cannot be {state} next"):
            found.become(state)
        assert (found.state, found.changed.is_set()) == (after, False)


@pytest.mark.parametrize("state", State)
def test_a_server_that_serves_and_no_other_gets_requests_and_owes_replies(state: State) -> None:
    found = server()
    found.state, found.in_flight = state, 1
    assert found.is_serving == found.owes_replies == (state is State.SERVING)
    found.in_flight = 0
    assert not found.owes_replies


def test_new_weights_are_loaded_from_service_into_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeServer() as fake, attach(fake, tmp_path) as fleet:
        seen = watched(fleet, monkeypatch)
        fleet.update_weights(FolderWeights(tmp_path, "v1"))
        assert seen == [State.LOADING, State.SERVING]


def test_a_lost_server_with_current_weights_is_looked_at_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeServer() as fake, attach(fake, tmp_path) as fleet:
        seen = watched(fleet, monkeypatch)
        fake.faults = [GARBAGE["nothing"]]
        fleet.generate([REQUEST])
        assert (seen, fake.num_updates) == ([State.LOST, State.SERVING], 0)
        # and so after an update that went well
        fleet.update_weights(FolderWeights(tmp_path, "v1"))
        seen.clear()
        fake.faults = [GARBAGE["nothing"]]
        fleet.generate([REQUEST])
        assert (seen, fake.num_updates) == ([State.LOST, State.SERVING], 1)


def test_a_server_whose_load_failed_is_not_believed_before_it_has_loaded_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeServer() as fake, attach(fake, tmp_path) as fleet:
        seen = watched(fleet, monkeypatch)
        # somebody else resumes it, so it says that it is healthy and has the version
        fleet.recovery.note = lambda _line: fake.may_generate.set()
        fake.fails = ["/continue_generation"]  # after it has confirmed the version
        fleet.update_weights(FolderWeights(tmp_path, "v1"))
        assert seen == [State.LOADING, State.LOST, State.LOADING, State.SERVING]
        assert fake.num_updates == 2


def test_a_server_that_is_lost_with_a_request_while_it_loads_is_brought_back_by_its_recovery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Losing(FolderWeights):
        async def load_into(self, clients: Sequence[ServerClient], timeout_s: float, *, keeps_cache: bool) -> None:
            clients[0].hang_up()
            while fleet.servers[0].in_flight:
                await asyncio.sleep(0.01)
            await super().load_into(clients, timeout_s, keeps_cache=keeps_cache)

    with FakeServer() as fake, attach(fake, tmp_path) as fleet, fleet.stream() as stream:
        seen = watched(fleet, monkeypatch)
        fake.hangs = 1
        stream.add([REQUEST])
        while fake.num_requests < 1:
            time.sleep(0.01)
        fleet.update_weights(Losing(tmp_path, "v1"))
        [completion] = stream.take()
        assert seen == [State.LOADING, State.LOST, State.LOADING, State.SERVING]
    assert isinstance(completion, Completion)
    assert [span.version for span in completion.weight_versions] == ["v1"]


def test_a_server_that_did_not_take_its_weights_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeServer() as fake, attach(fake, tmp_path) as fleet:
        seen = watched(fleet, monkeypatch)
        fake.confirms_updates = False

        def mend(_budget: RestartBudget) -> float:
            fake.confirms_updates = True
            return 0.0

        monkeypatch.setattr(RestartBudget, "backoff_s", mend)
        fleet.update_weights(FolderWeights(tmp_path, "v1"))
        assert seen == [State.LOADING, State.LOST, State.LOADING, State.STARTING, State.LOADING, State.SERVING]


def test_a_server_that_is_being_brought_back_takes_new_weights_by_its_recovery_alone(tmp_path: Path) -> None:
    with FakeServer() as one, FakeServer() as two:
        section = RolloutSection(server="external", urls=(one.url, two.url))
        with Fleet.start(section, tmp_path, "v0", tmp_path) as fleet:
            lost, may_begin = fleet.servers[1], asyncio.Event()

            async def cure() -> None:
                await may_begin.wait()
                await fleet.recovery._recover(lost)

            async def fence() -> None:
                fleet.recovery.fence(lost, RolloutError("lost"), cure())

            def until_the_other_has_them() -> None:
                deadline = time.monotonic() + 60
                while one.version != "v1":
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
                assert two.calls == ["/continue_generation"], "the word that whoever attaches says, and nothing since"
                fleet.loop.call_soon_threadsafe(may_begin.set)

            fleet.run(fence())
            fleet.update_weights(FolderWeights(tmp_path, "v1"), produce=until_the_other_has_them)
            assert (two.version, two.num_updates) == ("v1", 1)
            assert all(server.is_serving for server in fleet.servers)


class Taken(FolderWeights):
    """Notes when servers take them."""

    taken: ClassVar[list[str]] = []

    async def load_into(self, clients: Sequence[ServerClient], timeout_s: float, *, keeps_cache: bool = False) -> None:
        self.taken.append(self.version)
        await super().load_into(clients, timeout_s, keeps_cache=keeps_cache)


def test_a_server_that_is_lost_while_weights_are_staged_is_given_the_new_ones_and_never_those_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Taken, "taken", [])
    with FakeServer() as fake, attach(fake, tmp_path) as fleet:
        fleet.update_weights(Taken(tmp_path, "v1"))

        def fill() -> None:
            assert fleet.recovery.loading.locked()
            fake.version = "of a server that was started anew"
            fleet.loop.call_soon_threadsafe(fleet.recovery.fence, fleet.servers[0], RolloutError("lost"))
            while fleet.servers[0].state is State.SERVING:
                time.sleep(0.01)

        deliver = fleet.stage_weights(Taken(tmp_path, "v2"), fill)
        assert Taken.taken == ["v1"] and fleet.versions.newest == "v1"
        deliver()
        assert (fake.version, set(Taken.taken[1:])) == ("v2", {"v2"})
        assert fleet.servers[0].is_serving and fleet.versions.newest == "v2"
        fleet.update_weights(Taken(tmp_path, "v3"))  # nothing is held any longer


@pytest.mark.parametrize("in_flight", [True, False])
def test_weights_that_cannot_be_staged_whole_end_requests_and_hold_nobody_up(tmp_path: Path, in_flight: bool) -> None:
    def fail() -> None:
        raise ValueError("a rank is gone")

    with FakeServer() as fake, attach(fake, tmp_path, max_attempts=1) as fleet, fleet.stream() as stream:
        fake.hangs = 1
        stream.add([REQUEST])
        while fake.num_requests < 1:
            time.sleep(0.01)
        with pytest.raises(ValueError, match="a rank is gone"):
            weights = FolderWeights(tmp_path, "v1")
            fleet.stage_weights(weights, fail) if in_flight else fleet.update_weights(weights, before=fail)
        with pytest.raises(RolloutError, match="weights 'v1' were not gathered whole: ValueError"):
            stream.take()
        fleet.run(asyncio.wait_for(fleet.recovery.loading.acquire(), 60))


def test_leaving_a_fleet_stops_what_it_has_started_once(tmp_path: Path) -> None:
    stopped: list[str] = []
    with FakeServer() as fake:
        with attach(fake, tmp_path) as fleet:
            process: Any = SimpleNamespace(stop=lambda: stopped.append("stopped"))
            fleet.servers[0].process = process
            assert not stopped
        assert stopped == ["stopped"]
        fleet.close()
    assert stopped == ["stopped"]


def test_colocated_servers_go_through_pause_and_freedom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeServer() as fake, attach(fake, tmp_path, colocated=True) as fleet:
        seen = watched(fleet, monkeypatch)
        fleet.release_memory()
        with pytest.raises(RolloutError, match="servers that have freed their memory can answer no request"):
            fleet.generate([REQUEST])
        fleet.update_weights(FolderWeights(tmp_path, "v1"))
        fleet.generate([REQUEST])
        assert seen == [State.PAUSED, State.FREED, State.LOADING, State.SERVING]


def test_a_colocated_server_that_is_started_anew_has_all_of_its_memory(tmp_path: Path) -> None:
    with FakeServer() as fake, attach(fake, tmp_path, colocated=True) as fleet:
        fleet.release_memory()
        lose(fleet)
        fake.calls.clear()
        fleet.update_weights(FolderWeights(tmp_path, "v1"))
        assert fake.calls == ["/pause_generation", "/update_weights_from_disk", "/continue_generation"]


def test_requests_that_come_while_servers_load_are_sent_when_they_serve_the_new_weights(tmp_path: Path) -> None:
    with FakeServer() as fake, attach(fake, tmp_path) as fleet, fleet.stream() as stream:

        def ask() -> None:
            stream.add([REQUEST])
            assert stream.num_open == 1 and fake.num_requests == 0

        fleet.update_weights(FolderWeights(tmp_path, "v1"), produce=ask)
        [completion] = stream.take()
    assert isinstance(completion, Completion)
    assert [span.version for span in completion.weight_versions] == ["v1"]


def test_requests_that_wait_for_weights_which_never_come_hear_of_it(tmp_path: Path) -> None:
    def fail() -> None:
        stream.add([REQUEST])
        raise ValueError("a rank is gone")

    class Endless(FolderWeights):
        async def load_into(self, clients: object, timeout_s: float, *, keeps_cache: bool) -> None:
            await asyncio.Event().wait()

    with FakeServer() as fake, attach(fake, tmp_path) as fleet, fleet.stream() as stream:
        with pytest.raises(ValueError, match="a rank is gone"):
            fleet.update_weights(Endless(tmp_path, "v1"), produce=fail)
        with pytest.raises(RolloutError, match="weights 'v1' were not gathered whole: ValueError"):
            stream.take()


def test_requests_that_wait_for_weights_which_a_server_refuses_to_all_hear_of_it(tmp_path: Path) -> None:
    class Locked(FolderWeights):
        async def load_into(self, clients: object, timeout_s: float, *, keeps_cache: bool) -> None:
            await added.wait()
            raise RolloutError("refused weights with 401")

    def ask() -> None:
        stream.add([REQUEST])
        fleet.loop.call_soon_threadsafe(added.set)

    added = asyncio.Event()
    with FakeServer() as fake, attach(fake, tmp_path) as fleet, fleet.stream() as stream:
        with pytest.raises(RolloutError, match="refused weights with 401"):
            fleet.update_weights(Locked(tmp_path, "v1"), produce=ask)
        with pytest.raises(RolloutError, match="weights 'v1' did not reach every server: refused weights with 401"):
            stream.take()


def test_requests_in_flight_when_weights_do_not_reach_every_server_hear_of_it_at_once(tmp_path: Path) -> None:
    class Locked(FolderWeights):
        async def load_into(self, clients: object, timeout_s: float, *, keeps_cache: bool) -> None:
            raise RolloutError("refused weights with 401")

    with FakeServer() as fake, attach(fake, tmp_path, max_attempts=1) as fleet, fleet.stream() as stream:
        fake.hangs = 1
        stream.add([REQUEST])
        while fake.num_requests < 1:
            time.sleep(0.01)
        with pytest.raises(RolloutError, match="refused weights with 401"):
            fleet.update_weights(Locked(tmp_path, "v1"))
        with pytest.raises(RolloutError, match=r"^weights 'v1' did not reach every server: refused weights with 401"):
            stream.take()


def test_what_is_in_flight_when_the_fleet_fails_ends_with_why_it_failed(tmp_path: Path) -> None:
    fields = {"max_restarts": 1, "start_timeout_s": 0.2}
    with FakeServer() as fake, attach(fake, tmp_path, **fields) as fleet, fleet.stream() as stream:
        fake.hangs = 1
        stream.add([REQUEST])
        while fake.num_requests < 1:
            time.sleep(0.01)
        fake.is_ill, fake.faults = True, [GARBAGE["nothing"]]
        stream.add([replace(REQUEST, rid="other")])
        while stream.num_open:
            with pytest.raises(RolloutError, match=r"did not come back within rollout\.start_timeout_s = 0\.2 s"):
                stream.take()


def test_when_one_of_several_calls_fails_the_others_are_still_waited_for() -> None:
    ended = []

    async def fail() -> None:
        raise RolloutError("first")

    async def end_later() -> None:
        await asyncio.sleep(0.05)
        ended.append(True)

    with pytest.raises(RolloutError, match="first"):
        asyncio.run(all_of([end_later(), fail(), end_later()]))
    assert len(ended) == 2


# -- the budget of restarts


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_restarts_count_within_the_window_only() -> None:
    clock = Clock()
    budget = RestartBudget(2, 100.0, clock)
    assert budget.take()
    clock.now = 60.0
    assert budget.take()
    clock.now = 99.0
    assert not budget.take(), "two within the window"
    clock.now = 100.0
    assert budget.take(), "the first is over"
    clock.now = 159.0
    assert not budget.take(), "a refused one does not count, a taken one does"
    clock.now = 160.0
    assert budget.take()
    assert str(budget) == "rollout.max_restarts = 2 within rollout.restart_window_s = 100 s"


def test_a_budget_goes_on_with_what_an_earlier_process_has_taken() -> None:
    ours, theirs = Clock(), Clock()
    before, after = RestartBudget(3, 100.0, ours), RestartBudget(2, 100.0, theirs)
    for ours.now in (0.0, 60.0):
        assert before.take()
    ours.now, theirs.now = 130.0, 5000.0
    assert before.ages() == (70.0,), "the first is over"
    after.recall(before.ages())
    assert after.ages() == (70.0,)
    assert after.take() and not after.take()
    theirs.now = 5030.0
    assert after.take(), "the one that was recalled is over"


def test_backoff_doubles_within_a_window_and_begins_again_in_the_next() -> None:
    clock = Clock()
    budget = RestartBudget(100, 50.0, clock)
    waits = []
    for _ in range(8):
        assert budget.take()
        waits.append(budget.backoff_s())
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, LONGEST_BACKOFF_S, LONGEST_BACKOFF_S]
    clock.now = 50.0
    assert budget.take() and budget.backoff_s() == 0.5


def test_a_budget_of_none_allows_none() -> None:
    assert not RestartBudget(0, 1.0, Clock()).take()


def test_a_fleet_that_loses_a_server_now_and_then_goes_on_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RestartBudget, "backoff_s", lambda _self: 0.0)
    clock = Clock()
    with FakeServer() as fake, attach(fake, tmp_path, max_restarts=1, restart_window_s=100.0) as fleet:
        assert (fleet.recovery.budget.most, fleet.recovery.budget.window_s) == (1, 100.0)
        fleet.recovery.budget.now = clock
        for _ in range(5):
            lose(fleet)
            clock.now += 100.0
        assert fleet.take_stats()["server_restarts"] == 5
        lose(fleet)
        clock.now += 99.0
        used_up = r"rollout\.max_restarts = 1 within rollout\.restart_window_s = 100 s is used up"
        with pytest.raises(RolloutError, match=used_up):
            lose(fleet)


def lose(fleet: Fleet) -> None:
    """One restart of its server."""
    [lost] = fleet.servers
    cause = RolloutError("lost")

    async def restart() -> None:
        fleet.recovery.fence(lost, cause, fleet.recovery.restart(lost, cause))
        await fleet.recovery.recovered()

    fleet.run(restart())


# -- the versions of the weights


def of_versions(*spans: tuple[str, int, int]) -> Completion:
    named = tuple(VersionSpan(version=version, start=start, end=end) for version, start, end in spans)
    ids = token_array(range(spans[-1][2]))
    return Completion(
        rid="r",
        output_ids=ids,
        logprobs=-ids.astype("float32"),
        sampled=ids >= 0,
        finish_reason=FinishReason.STOP,
        weight_versions=named,
    )


def test_new_tokens_come_from_weights_that_were_current_or_came_later() -> None:
    versions = Versions()
    assert versions.stale(of_versions(("anything", 0, 3)), 0, versions.since_now()) is None
    versions.announce("v0")
    assert versions.stale(of_versions(("anything", 0, 3)), 0, versions.since_now()) is None, "none is confirmed yet"
    versions.confirm()
    assert versions.stale(of_versions(("anything", 0, 3)), 0, versions.since_now()) is not None
    versions.announce("v1")
    versions.confirm()
    mark = versions.since_now()
    versions.announce("v2")
    assert versions.stale(of_versions(("v1", 0, 3)), 0, mark) is None
    assert versions.stale(of_versions(("v1", 0, 1), ("v2", 1, 3)), 0, mark) is None
    assert versions.stale(of_versions(("v0", 0, 1), ("v1", 1, 3)), 1, mark) is None, "begun earlier"
    for stale, num_begun in (
        (of_versions(("v0", 0, 3)), 0),
        (of_versions(("v0", 0, 3)), 2),  # one span, of which a part is new
        (of_versions(("v0", 0, 1), ("v1", 1, 3)), 0),
        (of_versions(("v1", 0, 1), ("v0", 1, 3)), 1),
    ):
        assert versions.stale(stale, num_begun, mark) == "sampled from weights 'v0', current are ['v1', 'v2']"
    assert versions.stale(of_versions(("v3", 0, 3)), 0, mark) is not None, "never announced"
    versions.confirm()
    assert versions.stale(of_versions(("v1", 0, 3)), 0, versions.since_now()) is not None
