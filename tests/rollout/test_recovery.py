"""How a lost server comes back, step by step: by the weights that are current when it serves again, and no others."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from egrc_mega.errors import RolloutError
from egrc_mega.rollout import recovery as module
from egrc_mega.rollout.errors import RequestRefused, ServerLost
from egrc_mega.rollout.recovery import Recovery
from egrc_mega.rollout.state import State, follows
from egrc_mega.rollout.stats import FleetStats
from egrc_mega.sections.rollout import RolloutSection


def weights(version: str) -> Any:
    return SimpleNamespace(version=version)


class Server:
    """Says that it serves whatever it has loaded, and notes what is done to it."""

    def __init__(self, number: int = 0) -> None:
        self.number, self.state, self.has = number, State.SERVING, "v1"
        self.done: list[str] = []
        self.recovery: Any = None
        self.process: Any = None
        self.lives, self.is_well = True, True
        self.at_resume: Callable[[], None] = lambda: None
        self.refuses_to_resume = False
        self.client: Any = SimpleNamespace(url=f"http://{number}", resume=self._resume, hang_up=lambda: None)

    async def _resume(self) -> None:
        self.done.append("resume")
        for _ in range(5):  # it takes its time
            await asyncio.sleep(0)
        self.at_resume()
        if self.refuses_to_resume:
            self.refuses_to_resume = False
            raise RequestRefused("it is not paused")

    @property
    def is_recovering(self) -> bool:
        return self.recovery is not None and not self.recovery.done()

    def become(self, state: State) -> None:
        self.state = follows(state, self.state)
        self.done.append(state)

    def process_lives(self) -> bool:
        return self.lives

    async def serves(self, version: str) -> bool:
        is_well, self.is_well = self.is_well, True
        return is_well and self.has == version

    async def come_back(self, timeout_s: float) -> None:
        self.become(State.STARTING)
        self.lives, self.has = True, "start"

    def log_tail(self) -> str:
        return ""


class Case:
    """A recovery over servers, in a loop that runs when `run` is called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, num_servers: int = 1, **section: Any) -> None:
        self.servers = [Server(number) for number in range(num_servers)]
        self.server = self.servers[0]
        self.lines: list[str] = []
        self.during_load: Callable[[], None] = lambda: None
        self.section = RolloutSection(**section)
        monkeypatch.setattr(module, "load", self._load)
        monkeypatch.setattr(module.RestartBudget, "backoff_s", lambda _self: 0.0)

    async def _load(self, servers: Sequence[Server], loaded: Any, timeout_s: float) -> None:
        assert self.recovery.loading.locked(), "what is being sent may change under them"
        assert timeout_s == self.section.update_timeout_s
        for server in servers:
            server.become(State.LOADING)
            server.done.append(f"load {loaded.version}")
            server.has = loaded.version
        self.during_load()

    def move_to(self, version: str) -> None:
        self.recovery.weights = weights(version)

    def run(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        async def within() -> Any:
            args: Any = (self.section, self.servers, weights("v1"), FleetStats(), asyncio.Event(), self.lines.append)
            self.recovery = Recovery(*args)
            return await asyncio.wait_for(work(), 60)

        return asyncio.run(within())

    def lose(self, before: Callable[[], None] = lambda: None) -> list[str]:
        """What is done to the server from its loss to its return."""

        async def work() -> None:
            before()
            self.recovery.fence(self.server, ServerLost("gone"))  # type: ignore[arg-type]
            await self.recovery.recovered()

        self.run(work)
        assert self.server.state is State.SERVING
        return self.server.done


@pytest.fixture
def case(monkeypatch: pytest.MonkeyPatch) -> Case:
    return Case(monkeypatch)


LOST, STARTING, LOADING, SERVING = State.LOST, State.STARTING, State.LOADING, State.SERVING


def test_one_that_has_the_current_weights_is_told_to_go_on_and_serves(case: Case) -> None:
    assert case.lose() == [LOST, "resume", SERVING]
    assert case.lines == ["server 0 is fenced: gone", "server 0 serves again, at http://0"]
    assert case.recovery.stats.events == case.lines and case.recovery.stats.num_restarts == 0


def test_one_that_cannot_go_on_as_it_is_is_loaded(case: Case) -> None:
    case.server.refuses_to_resume = True
    assert case.lose() == [LOST, "resume", LOADING, "load v1", "resume", SERVING]


def test_one_that_has_others_is_loaded(case: Case) -> None:
    assert case.lose(lambda: case.move_to("v2")) == [LOST, LOADING, "load v2", "resume", SERVING]


def test_weights_that_move_while_it_is_told_to_go_on_are_loaded_before_it_serves(case: Case) -> None:
    def once() -> None:
        case.server.at_resume = lambda: None
        case.move_to("v2")

    case.server.at_resume = once
    assert case.lose() == [LOST, "resume", LOADING, "load v2", "resume", SERVING]


@pytest.mark.parametrize("is_well", [True, False])
def test_weights_that_move_while_it_loads_are_loaded_as_well_and_nothing_is_started_for_that(
    is_well: bool, case: Case
) -> None:
    def once() -> None:
        case.during_load = lambda: None
        case.server.is_well = is_well
        case.move_to("v2")

    case.server.has, case.during_load = "v0", once
    assert case.lose() == [LOST, LOADING, "load v1", LOADING, "load v2", "resume", SERVING]


def test_it_waits_while_others_load_and_takes_what_is_current_then(case: Case) -> None:
    async def work() -> None:
        await case.recovery.loading.acquire()
        case.server.has = "v0"
        case.recovery.fence(case.server, ServerLost("gone"))  # type: ignore[arg-type]
        for _ in range(20):
            await asyncio.sleep(0)
        assert case.server.done == [LOST]
        case.move_to("v2")
        case.recovery.loading.release()
        await case.recovery.recovered()

    case.run(work)
    assert case.server.done == [LOST, LOADING, "load v2", "resume", SERVING]


def test_one_whose_process_has_ended_is_started_and_loaded_and_not_loaded_before(case: Case) -> None:
    case.server.lives, case.server.has = False, ""
    assert case.lose() == [LOST, STARTING, LOADING, "load v1", "resume", SERVING]
    assert case.recovery.stats.num_restarts == 1


def test_one_that_has_loaded_and_is_not_well_is_started_anew(case: Case) -> None:
    def once() -> None:
        case.during_load = lambda: None
        case.server.is_well = False

    case.server.has, case.during_load = "v0", once
    assert case.lose() == [LOST, LOADING, "load v1", STARTING, LOADING, "load v1", "resume", SERVING]


def test_a_server_that_is_being_brought_back_is_fenced_once_and_after_a_failure_none_is(case: Case) -> None:
    async def work() -> None:
        for _ in range(3):
            case.recovery.fence(case.server, ServerLost("gone"))  # type: ignore[arg-type]
        await case.recovery.recovered()
        case.recovery.fail(RolloutError("over"))
        assert case.recovery.changed.is_set(), "whoever waits must look again"
        case.recovery.fence(case.server, ServerLost("gone"))  # type: ignore[arg-type]
        with pytest.raises(RolloutError, match="over"):
            await case.recovery.recovered()

    case.run(work)
    assert case.server.done == [LOST, "resume", SERVING]


@pytest.mark.parametrize("process", [None, SimpleNamespace()])
def test_a_start_that_fails_is_tried_again_where_it_is_ours_and_an_external_server_was_waited_for(
    process: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(monkeypatch, max_restarts=3)
    starts: list[int] = []

    async def come_back(timeout_s: float) -> None:
        assert timeout_s == case.section.start_timeout_s
        case.server.become(State.STARTING)
        starts.append(1)
        raise RolloutError("nobody there")

    case.server.lives, case.server.has, case.server.process = False, "", process
    case.server.come_back = come_back  # type: ignore[method-assign]
    used_up = r"nobody there; rollout\.max_restarts = 3 within .* is used up"
    with pytest.raises(RolloutError, match=used_up if process else "^nobody there$"):
        case.lose()
    assert len(starts) == case.recovery.stats.num_restarts == (3 if process else 1)


def test_an_error_that_nobody_thought_of_ends_the_fleet_with_its_cause(case: Case) -> None:
    async def broken(_version: str) -> bool:
        raise TypeError("not iterable")

    case.server.serves = broken  # type: ignore[method-assign]
    with pytest.raises(RolloutError, match=r"http://0 could not be brought back: TypeError.*not iterable") as caught:
        case.lose()
    assert isinstance(caught.value.__cause__, TypeError)


def test_all_are_asked_and_the_lost_ones_again_once_they_are_back(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(monkeypatch, 3)
    losses = {1: 2}

    async def ask(server: Any) -> str:
        assert server.state is State.SERVING
        if losses.get(server.number):
            losses[server.number] -= 1
            raise ServerLost("gone")
        return f"answer {server.number}"

    found = case.run(lambda: case.recovery.of_all(ask))
    assert found == ["answer 0", "answer 1", "answer 2"]
    assert [server.done for server in case.servers] == [[], [LOST, "resume", SERVING] * 2, []]


def test_a_refusal_of_one_is_the_answer_and_fences_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(monkeypatch, 2)

    async def ask(server: Any) -> None:
        if server.number:
            raise RequestRefused("no such call")

    with pytest.raises(RequestRefused, match="no such call"):
        case.run(lambda: case.recovery.of_all(ask))
    assert [server.done for server in case.servers] == [[], []]
