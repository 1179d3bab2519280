"""One request through the dispatcher, with scripted servers: which replies are used, and what becomes of others."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from egrc_mega.errors import RolloutError
from egrc_mega.rollout import dispatch as module
from egrc_mega.rollout.dispatch import Dispatcher, Ticket
from egrc_mega.rollout.errors import RequestRefused, ServerBusy, ServerLost
from egrc_mega.rollout.state import State
from egrc_mega.rollout.stats import FleetStats
from egrc_mega.rollout.timeline import Timeline
from egrc_mega.rollout.versions import Versions
from egrc_mega.sections.rollout import RolloutSection
from egrc_mega.testing.samples import PROMPT_IDS, make_sample
from egrc_mega.types import Completion, FinishReason, RolloutRequest, Sampling, VersionSpan

SAMPLING = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=4, stop_token_ids=())
REQUEST = RolloutRequest(rid="r", prompt_id="p", prompt_ids=PROMPT_IDS, sampling=SAMPLING, seed=0)
Answer = Completion | Exception | Callable[[], Completion]


def reply(*spans: tuple[str, int, int], finish: FinishReason = FinishReason.STOP) -> Completion:
    own = make_sample(range(spans[-1][2]), finish=finish).completion
    return replace(own, weight_versions=tuple(VersionSpan(version=v, start=s, end=e) for v, s, e in spans))


class Script:
    """Servers that serve until they are fenced, and the answers that they give, one after the other."""

    def __init__(self, *answers: Answer, num_servers: int = 2) -> None:
        self.answers = list(answers)
        self.sent: list[tuple[int, str, Completion | None]] = []
        self.fenced: list[tuple[int, str]] = []
        self.servers: list[Any] = [
            SimpleNamespace(
                number=n,
                client=SimpleNamespace(url=f"http://{n}", number=n),
                state=State.SERVING,
                is_serving=True,
                in_flight=0,
                timeline=Timeline(State.SERVING),
                process=None,
            )
            for n in range(num_servers)
        ]
        self.stats = FleetStats()
        self.versions = Versions()
        for name in ("v0", "v1"):
            self.versions.announce(name)
            self.versions.confirm()

    def check(self) -> None: ...

    def fence(self, server: Any, error: Exception) -> None:
        self.fenced.append((server.number, str(error)))
        server.is_serving = False

    async def generate(self, client: Any, request: RolloutRequest, _environment: Any, begun: Any) -> Completion:
        self.sent.append((client.number, request.rid, begun))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, Completion) else answer()


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Completion]:
    monkeypatch.setattr(module, "BUSY_PAUSE_S", 0.0)

    def answered(script: Script, begun: Completion | None = None, home: int = 0, **section: Any) -> Completion:
        monkeypatch.setattr(module.segments, "generate", script.generate)
        recovery: Any = script
        dispatcher = Dispatcher(RolloutSection(**section), script.servers, recovery, script.versions)

        async def run() -> Completion:
            request: Awaitable[Completion] = dispatcher.answered(REQUEST, Ticket(None), script.servers[home], begun)
            return await asyncio.wait_for(request, 60)

        return asyncio.run(run())

    return answered


def test_a_fresh_reply_of_the_prompts_own_server_is_used(ask: Any) -> None:
    script = Script(reply(("v1", 0, 4)))
    found = ask(script, home=1)
    assert (found.rid, found.weight_versions[0].version) == ("r", "v1")
    assert (script.sent, script.fenced) == ([(1, "r", None)], [])
    assert script.servers[1].in_flight == script.stats.num_in_flight == 0


@pytest.mark.parametrize(
    "stale", [reply(("v0", 0, 4)), reply(("v1", 0, 2), ("v0", 2, 4)), reply(("v0", 0, 2), ("v1", 2, 4))]
)
def test_a_reply_with_any_stale_token_fences_the_server_and_another_is_asked_under_another_name(
    ask: Any, stale: Completion
) -> None:
    script = Script(stale, reply(("v1", 0, 4)))
    assert ask(script).weight_versions[0].version == "v1"
    assert [sent[:2] for sent in script.sent] == [(0, "r"), (1, "again1-r")]
    [(number, line)] = script.fenced
    assert number == 0
    assert "reply of http://0 to request r is unusable: sampled from weights 'v0', current are ['v1']" in line
    assert script.stats.num_lost_requests == 1


def test_what_was_begun_may_be_old_and_what_the_server_added_may_not(ask: Any) -> None:
    begun = reply(("v0", 0, 2), finish=FinishReason.ABORT)
    script = Script(reply(("v0", 0, 4)), reply(("v0", 0, 2), ("v1", 2, 4)))
    found = ask(script, begun)
    assert [(s.version, s.start, s.end) for s in found.weight_versions] == [("v0", 0, 2), ("v1", 2, 4)]
    assert [sent[2] for sent in script.sent] == [begun, begun]
    assert [number for number, _line in script.fenced] == [0]


def test_weights_that_come_while_a_request_is_under_way_make_no_reply_stale(ask: Any) -> None:
    script = Script()

    def moved() -> Completion:
        script.versions.announce("v2")
        script.versions.confirm()
        return reply(("v1", 0, 3), ("v2", 3, 4))

    script.answers = [moved]
    assert ask(script).weight_versions[-1].version == "v2"
    assert script.fenced == []


def test_a_request_that_is_lost_too_often_ends_with_its_cause(ask: Any) -> None:
    script = Script(*[ServerLost("gone")] * 2, num_servers=3)
    with pytest.raises(RolloutError, match=r"request r was lost in all 2 attempts \(rollout\.max_attempts\): gone"):
        ask(script, max_attempts=2)
    assert len(script.sent) == 2


def test_an_abort_that_nobody_asked_for_is_a_loss_and_fences_nobody(ask: Any) -> None:
    script = Script(reply(("v1", 0, 2), finish=FinishReason.ABORT), reply(("v1", 0, 4)))
    assert ask(script).finish_reason is FinishReason.STOP
    assert (script.stats.num_lost_requests, script.fenced) == (1, [])


def test_a_busy_server_is_passed_over_once_and_nothing_is_lost(ask: Any) -> None:
    script = Script(ServerBusy("full"), reply(("v1", 0, 4)))
    ask(script)
    assert [sent[0] for sent in script.sent] == [0, 1]
    assert (script.stats.num_lost_requests, script.stats.num_busy_replies, script.fenced) == (0, 1, [])


def test_what_a_server_refuses_is_asked_of_no_other(ask: Any) -> None:
    script = Script(RequestRefused("too long"))
    with pytest.raises(RequestRefused, match="too long"):
        ask(script)
    assert (len(script.sent), script.fenced) == (1, [])


def test_while_the_own_server_does_not_serve_the_least_loaded_is_asked(ask: Any) -> None:
    script = Script(reply(("v1", 0, 4)), num_servers=4)
    script.servers[0].is_serving = False
    for server, load in zip(script.servers, (0, 3, 1, 2), strict=True):
        server.in_flight = load
    ask(script)
    assert script.sent[0][0] == 2


@pytest.mark.parametrize("has_begun", [False, True])
def test_what_was_begun_is_not_lost_when_the_stream_aborts_before_it_is_sent(
    has_begun: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    script: Any = Script()
    begun = reply(("v0", 0, 2), finish=FinishReason.ABORT) if has_begun else None
    forced = replace(REQUEST, forced_ids=PROMPT_IDS[:3])

    async def run() -> Completion:
        dispatcher = Dispatcher(RolloutSection(), script.servers, script, script.versions)
        return await dispatcher.answered(forced, Ticket(None, is_aborting=True), script.servers[0], begun)

    found = asyncio.run(run())
    assert found.finish_reason is FinishReason.ABORT
    assert found is begun or found.output_ids.tolist() == PROMPT_IDS[:3].tolist()
    assert (found is begun) is has_begun
    assert script.sent == []


def test_no_two_attempts_of_a_request_have_one_name(ask: Any) -> None:
    script = Script(*[ServerLost("gone")] * 3, reply(("v1", 0, 4)), num_servers=4)
    assert ask(script, max_attempts=4).rid == "r"
    assert [rid for _number, rid, _begun in script.sent] == ["r", "again1-r", "again2-r", "again3-r"]


@pytest.mark.parametrize("code", [0, 1, -9])
def test_a_loss_names_the_server_process_that_has_ended_whatever_its_exit_code_is(ask: Any, code: int) -> None:
    script = Script(*[ServerLost("gone")] * 2)
    for server, ended in zip(script.servers, (None, code), strict=True):
        server.process = SimpleNamespace(process=SimpleNamespace(poll=lambda ended=ended: ended))
        server.log_tail = lambda: ": its last words"
    with pytest.raises(RolloutError, match=rf"; server 1 ended with exit code {code}: its last words$"):
        ask(script, max_attempts=2)


@pytest.mark.parametrize("idle", [State.PAUSED, State.FREED])
def test_a_request_waits_for_a_server_that_comes_back_although_another_has_freed_its_memory(
    idle: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    script: Any = Script(reply(("v1", 0, 4)))
    monkeypatch.setattr(module.segments, "generate", script.generate)
    for server, state in zip(script.servers, (idle, State.LOST), strict=True):
        server.state, server.is_serving = state, False

    async def run() -> Completion:
        script.changed = asyncio.Event()
        dispatcher = Dispatcher(RolloutSection(), script.servers, script, script.versions)
        asking = asyncio.create_task(dispatcher.answered(REQUEST, Ticket(None), script.servers[0], None))
        for _ in range(5):
            script.changed.set()
            await asyncio.sleep(0)
            assert not asking.done()
        script.servers[1].state, script.servers[1].is_serving = State.SERVING, True
        script.changed.set()
        return await asyncio.wait_for(asking, 60)

    assert asyncio.run(run()).rid == "r"
    assert script.sent == [(1, "r", None)]
