"""What the fleet does when servers die, hang, talk nonsense or keep old weights. Each case ends within its deadline."""

import asyncio
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest
from aiohttp import web

from egrc_mega.errors import RolloutError, has_waited_in_vain
from egrc_mega.rollout import server as server_module
from egrc_mega.rollout.client import ServerClient
from egrc_mega.rollout.fleet import Fleet
from egrc_mega.rollout.stream import complete
from egrc_mega.rollout.weights import FolderWeights
from egrc_mega.sections.rollout import RolloutSection
from egrc_mega.testing.fake_server import GARBAGE, FakeServer
from egrc_mega.testing.samples import PROMPT_IDS, contents
from egrc_mega.testing.tiny_model import write_tiny_qwen2
from egrc_mega.types import FinishReason, RolloutRequest, Sampling

pytestmark = pytest.mark.long_file


@pytest.fixture(autouse=True)
def quick_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "POLL_S", 0.05)
    monkeypatch.setattr("egrc_mega.rollout.watch.POLL_S", 0.05)
    monkeypatch.setattr("egrc_mega.rollout.dispatch.BUSY_PAUSE_S", 0.05)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_qwen2(tmp_path_factory.mktemp("model"))


def requests(count: int, tokens: int = 4, prompts: int = 2) -> list[RolloutRequest]:
    sampling = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=tokens, stop_token_ids=())
    return [
        RolloutRequest(rid=f"r{i:03d}", prompt_id=f"p{i % prompts}", prompt_ids=PROMPT_IDS, sampling=sampling, seed=i)
        for i in range(count)
    ]


def losses(fleet: Fleet) -> dict[str, int]:
    stats = fleet.take_stats()
    return {name: stats[name] for name in ("lost_requests", "server_restarts")}


# -- with processes of our own


@pytest.fixture(scope="module")
def undisturbed(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple]:
    """Completions that nothing disturbed, and the fleet that gave them."""
    section = RolloutSection(num_servers=2, request_timeout_s=60, max_restarts=10)
    with Fleet.start(section, model, "v0", tmp_path_factory.mktemp("logs")) as fleet:
        yield fleet, fleet.generate(requests(120, tokens=150))


def disturb(fleet: Fleet, number: int, number_of_signal: int, after_s: float) -> threading.Timer:
    process = fleet.servers[number].process
    assert process is not None
    timer = threading.Timer(after_s, os.kill, (process.process.pid, number_of_signal))
    timer.start()
    return timer


def test_a_server_killed_mid_generation_costs_nothing_but_time(undisturbed: tuple, model: Path) -> None:
    fleet, expected = undisturbed
    process = fleet.servers[1].process
    pid = process.process.pid
    disturb(fleet, 1, signal.SIGKILL, 0.1)
    assert contents(fleet.generate(requests(120, tokens=150))) == contents(expected)  # tokens and log-probs, bit by bit
    counters = losses(fleet)
    assert counters["lost_requests"] > 0 and counters["server_restarts"] == 1
    deadline = time.monotonic() + 60
    while not fleet.servers[1].is_serving:
        assert time.monotonic() < deadline, "the lost server never came back"
        time.sleep(0.05)
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_server_that_comes_back_gets_the_current_weights_before_it_serves(
    undisturbed: tuple, model: Path, tmp_path: Path
) -> None:
    fleet, expected = undisturbed
    other = write_tiny_qwen2(tmp_path / "other", seed=3)
    fleet.update_weights(FolderWeights(other, "v1"))
    changed = fleet.generate(requests(120, tokens=150))
    assert contents(changed) != contents(expected)
    disturb(fleet, 0, signal.SIGKILL, 0.1)
    disturb(fleet, 1, signal.SIGKILL, 0.1)  # both: somebody must come back first
    again = fleet.generate(requests(120, tokens=150))
    assert contents(again) == contents(changed)
    assert {span.version for c in again for span in c.weight_versions} == {"v1"}
    fleet.update_weights(FolderWeights(model, "v0"))
    back = fleet.generate(requests(120, tokens=150))
    assert contents(back) == contents(expected)


def test_a_server_that_hangs_is_replaced_after_the_deadline(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("egrc_mega.rollout.client.CONTROL_TIMEOUT_S", 1.0)
    monkeypatch.setattr("egrc_mega.rollout.start.process.STOP_TIMEOUT_S", 1.0)
    section = RolloutSection(request_timeout_s=3.0, start_timeout_s=60)
    with Fleet.start(section, model, "v0", tmp_path) as fleet:
        expected = fleet.generate(requests(8))
        process = fleet.servers[0].process
        assert process is not None
        process.process.send_signal(signal.SIGSTOP)
        assert contents(fleet.generate(requests(8))) == contents(expected)
        assert losses(fleet) == {"lost_requests": 8, "server_restarts": 1}


def test_a_server_that_falls_silent_is_replaced_long_before_its_requests_deadline(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("egrc_mega.rollout.client.CONTROL_TIMEOUT_S", 1.0)
    monkeypatch.setattr("egrc_mega.rollout.start.process.STOP_TIMEOUT_S", 1.0)
    lines: list[str] = []
    section = RolloutSection(request_timeout_s=600, silence_timeout_s=4.0, start_timeout_s=60)
    with Fleet.start(section, model, "v0", tmp_path, note=lines.append) as fleet:
        expected = fleet.generate(requests(8))
        server = fleet.servers[0]
        url = server.client.url
        server.process.process.send_signal(signal.SIGSTOP)  # type: ignore[union-attr]
        assert contents(fleet.generate(requests(8))) == contents(expected)
        assert losses(fleet) == {"lost_requests": 8, "server_restarts": 1}
    assert re.match(rf"server 0 is fenced: {url} fell silent while it had request r00\d", lines[0])
    assert lines[1:] == [f"server 0 serves again, at {url}"]


def test_when_restarts_are_used_up_the_run_stops_with_the_cause(model: Path, tmp_path: Path) -> None:
    with Fleet.start(RolloutSection(max_restarts=0), model, "v0", tmp_path) as fleet:
        disturb(fleet, 0, signal.SIGKILL, 0.0).join()
        with pytest.raises(
            RolloutError,
            match=r"max_restarts = 0 within rollout\.restart_window_s = 3600 s is used up.*see .*server_0\.log",
        ):
            fleet.generate(requests(8))


def test_a_restart_that_fails_is_tried_again_while_the_budget_lasts(model: Path, tmp_path: Path) -> None:
    def squat() -> None:
        with socket.create_server(("127.0.0.1", int(fleet.servers[0].client.url.rpartition(":")[2]))):
            while fleet.stats.num_restarts < 2:
                time.sleep(0.02)

    def take_the_port(line: str) -> None:
        if "is fenced" in line:
            fleet.servers[0].process.process.wait(10)  # type: ignore[union-attr]
            threading.Thread(target=squat, daemon=True).start()

    with Fleet.start(RolloutSection(), model, "v0", tmp_path, note=take_the_port) as fleet:
        expected = fleet.generate(requests(8))
        disturb(fleet, 0, signal.SIGKILL, 0.0).join()
        assert contents(fleet.generate(requests(8))) == contents(expected)
        assert losses(fleet)["server_restarts"] == 2


# -- with a scripted server


def attach(fakes: list[FakeServer], tmp_path: Path, **fields: object) -> Fleet:
    section = RolloutSection(server="external", urls=tuple(fake.url for fake in fakes), **fields)
    fleet = Fleet.start(section, tmp_path, "v0", tmp_path, vocab_size=1000)
    for fake in fakes:
        assert fake.calls == ["/continue_generation"], "whoever attaches ends a pause that a killed run has left"
        fake.calls.clear()
    return fleet


@pytest.mark.parametrize("kind", GARBAGE)
def test_a_reply_that_makes_no_sense_is_asked_for_again_and_never_used(kind: str, tmp_path: Path) -> None:
    with FakeServer() as fake, attach([fake], tmp_path) as fleet:
        fake.faults = [GARBAGE[kind]]
        completions = fleet.generate(requests(4))
        assert [c.output_ids.tolist() for c in completions] == [[7, 7, 7, 7]] * 4
        assert fake.num_requests == 5
        assert losses(fleet) == {"lost_requests": 1, "server_restarts": 0}


def test_a_server_that_always_talks_nonsense_stops_the_run_with_the_request_and_the_reason(tmp_path: Path) -> None:
    with FakeServer() as fake, attach([fake], tmp_path, max_attempts=2) as fleet:
        fake.faults = [GARBAGE["a token too few"]] * 100
        with pytest.raises(
            RolloutError, match=r"lost in all 2 attempts \(rollout\.max_attempts\): reply of .* 3 ids, 4 log-probs"
        ):
            fleet.generate(requests(4))


@pytest.mark.parametrize(
    ("kind", "said"), [("a body without end", r"with more than 1050624 bytes"), ("a bomb", "in the encoding 'gzip'")]
)
def test_a_reply_too_long_for_its_request_is_not_read_to_its_end(kind: str, said: str, tmp_path: Path) -> None:
    with FakeServer() as fake, attach([fake], tmp_path, max_attempts=1) as fleet:
        fake.faults = [GARBAGE[kind]]
        with pytest.raises(RolloutError, match=said):
            fleet.generate(requests(1))


def test_a_server_that_never_ends_speaking_of_itself_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("egrc_mega.rollout.client.REPLY_BYTES", 10**6)
    with FakeServer() as fake, attach([fake], tmp_path, max_restarts=0, start_timeout_s=0.5) as fleet:
        fake.info = {"weight_version": "v1", "more": "x" * 10**6}
        with pytest.raises(RolloutError, match=rf"{fake.url} answered model info with more than 1000000 bytes"):
            fleet.update_weights(FolderWeights(tmp_path, "v1"))


def test_a_request_that_is_refused_is_not_sent_again(tmp_path: Path) -> None:
    with FakeServer() as fake, attach([fake], tmp_path) as fleet:
        fake.faults = [lambda _reply: web.json_response({"error": {"message": "too long"}}, status=400)]
        with pytest.raises(RolloutError, match=r"refused request r000 with 400: .*too long"):
            fleet.generate(requests(1))
        assert fake.num_requests == 1


def test_a_request_that_is_sent_again_has_an_id_that_no_server_has_seen(tmp_path: Path) -> None:
    with FakeServer() as fake, attach([fake], tmp_path, request_timeout_s=0.5) as fleet:
        fake.hangs = 2  # a server like SGLang goes on with what we gave up, and refuses an id that it still has
        completions = fleet.generate(requests(4))
    rids = [body["rid"] for body in fake.bodies]
    assert len(rids) == len(set(rids)) == 6
    assert [completion.rid for completion in completions] == ["r000", "r001", "r002", "r003"]


BUSY = ((429, "Too Many Requests"), (503, '{"error": "The request queue is full."}'))


@pytest.mark.parametrize(("status", "text"), BUSY)
def test_a_busy_server_is_asked_again_and_keeps_its_place(status: int, text: str, tmp_path: Path) -> None:
    with FakeServer() as fake, attach([fake], tmp_path, max_attempts=2) as fleet:
        fake.faults = [lambda _reply: web.Response(status=status, text=text)] * 5
        assert len(fleet.generate(requests(1))) == 1
        stats = fleet.take_stats()
    assert (stats["busy_replies"], stats["lost_requests"], stats["server_events"]) == (5, 0, [])


def test_a_busy_server_gives_its_requests_to_an_idle_one(tmp_path: Path) -> None:
    with FakeServer() as busy, FakeServer() as idle, attach([busy, idle], tmp_path) as fleet:
        busy.faults = [lambda _reply: web.Response(status=429)] * 1000
        assert len(fleet.generate(requests(8))) == 8
        assert (busy.num_requests, idle.num_requests) == (4, 8)


def test_a_server_that_is_always_busy_stops_the_run_at_the_requests_deadline(tmp_path: Path) -> None:
    with FakeServer() as fake, attach([fake], tmp_path, request_timeout_s=0.6) as fleet:
        fake.faults = [lambda _reply: web.Response(status=429, text="Too Many Requests")] * 1000
        with pytest.raises(
            RolloutError, match=r"with 429: Too Many.* for all of rollout\.request_timeout_s = 0\.6 s"
        ) as error:
            fleet.generate(requests(1))
    assert has_waited_in_vain(error.value)


def test_a_note_that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    def broken(_line: str) -> None:
        raise BrokenPipeError

    with FakeServer() as fake, attach([fake], tmp_path) as fleet:
        fleet.recovery.note = broken
        fake.faults = [GARBAGE["nothing"]]
        assert len(fleet.generate(requests(4))) == 4
        assert losses(fleet) == {"lost_requests": 1, "server_restarts": 0}


def test_requests_that_a_server_does_not_abort_are_left_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("egrc_mega.rollout.stream.ABORT_AGAIN_S", 0.05)
    monkeypatch.setattr("egrc_mega.rollout.stream.ABORT_TIMEOUT_S", 0.5)
    with FakeServer() as fake, attach([fake], tmp_path, request_timeout_s=600) as fleet:
        fake.holds, fake.is_deaf = lambda body: True, True
        started = time.monotonic()
        with fleet.stream() as stream:
            stream.add(requests(4))
            ended = stream.abort()
        assert time.monotonic() - started < 20
        assert [(c.finish_reason, c.output_ids.tolist()) for c in ended] == [(FinishReason.ABORT, [])] * 4


@pytest.mark.parametrize("info", [[], "a text", {"weight_version": ["v1"]}])
def test_a_server_that_says_nonsense_of_itself_is_lost_and_named(info: object, tmp_path: Path) -> None:
    with FakeServer() as fake, attach([fake], tmp_path, max_restarts=0, start_timeout_s=0.5) as fleet:
        fake.info = info
        with pytest.raises(RolloutError, match=rf"{fake.url} .*(something else|serves weights).* is used up"):
            fleet.update_weights(FolderWeights(tmp_path, "v1"))


def test_an_error_that_nobody_thought_of_stops_the_run_and_never_waits_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_self: object, _version: str) -> bool:
        raise TypeError("'NoneType' object is not iterable")

    monkeypatch.setattr(server_module.Server, "serves", broken)
    with FakeServer() as fake, attach([fake], tmp_path) as fleet:
        fake.faults = [GARBAGE["nothing"]]
        with pytest.raises(RolloutError, match=rf"{fake.url} could not be brought back: TypeError.*not iterable"):
            fleet.generate(requests(2))


def test_a_server_that_was_left_paused_is_resumed_even_if_it_says_that_it_is_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def is_healthy(_client: object) -> bool:
        return True  # as SGLang's paused server, if some other reply leaves it while it is asked

    monkeypatch.setattr(ServerClient, "is_healthy", is_healthy)
    with FakeServer() as fake:
        fake.may_generate.clear()
        with attach([fake], tmp_path) as fleet:
            assert len(fleet.generate(requests(1))) == 1


def test_a_watched_server_that_is_paused_is_left_alone_with_the_weights_of_its_run(tmp_path: Path) -> None:
    with FakeServer() as fake, attach([fake], tmp_path) as watching:
        fake.version, fake.is_ill = "v5", True  # a run updates it, and SGLang's /health calls a paused server ill
        watching.revive()
        assert watching.servers[0].is_serving
    assert (fake.calls, fake.num_updates, fake.version) == ([], 0, "v5")


def test_a_watched_server_that_died_is_started_again_and_given_no_weights(model: Path, tmp_path: Path) -> None:
    with Fleet.start(RolloutSection(num_servers=2), model, "start", tmp_path) as watching:
        dead = watching.servers[1]
        assert dead.process is not None
        dead.process.process.kill()
        dead.process.process.wait()
        url = watching.servers[0].client.url
        with Fleet.start(RolloutSection(server="external", urls=(url,)), model, "v0", tmp_path) as run:
            run.update_weights(FolderWeights(model, "v5"))
            watching.revive()
            deadline = time.monotonic() + 60
            while not dead.is_serving:
                assert time.monotonic() < deadline, "it never came back"
                time.sleep(0.05)
                watching.revive()
            assert {span.version for c in run.generate(requests(2)) for span in c.weight_versions} == {"v5"}
        assert losses(watching) == {"lost_requests": 0, "server_restarts": 1}


def test_a_lost_request_goes_to_another_server(tmp_path: Path) -> None:
    with FakeServer() as good, FakeServer() as bad, attach([good, bad], tmp_path, request_timeout_s=0.5) as fleet:
        bad.hangs = 100
        completions = fleet.generate(requests(6))
        assert len(completions) == 6
        assert bad.num_requests >= 3 and good.num_requests >= 3


def test_requests_of_a_silent_server_go_elsewhere_and_those_of_a_slow_one_stay(tmp_path: Path) -> None:
    def mend(_line: str) -> None:
        silent.is_ill = False

    with FakeServer() as slow, FakeServer() as silent:
        slow.delay_s, silent.hangs = 1.5, 4
        urls = (slow.url, silent.url)
        section = RolloutSection(server="external", urls=urls, silence_timeout_s=0.5, request_timeout_s=600)
        with Fleet.start(section, tmp_path, "v0", tmp_path, note=mend) as fleet:
            silent.is_ill = True
            assert len(fleet.generate(requests(8))) == 8
            assert losses(fleet) == {"lost_requests": 4, "server_restarts": 0}
        assert slow.num_requests == 8 and silent.num_requests == 4


SLOW_S = 3.0


class Slow(FakeServer):
    """Answers a request when all others have served theirs, and after a while, in which it was asked how it is."""

    def __init__(self, others: Sequence[FakeServer], num_requests: int) -> None:
        super().__init__()
        self.others, self.num_requests_of_others, self.num_checks = others, num_requests, 0
        self.begun_at: float | None = None

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        self.begun_at = self.begun_at or time.monotonic()
        while (
            self.num_checks < 2
            or time.monotonic() < self.begun_at + SLOW_S
            or sum(each.num_requests for each in self.others) < self.num_requests_of_others
        ):
            await asyncio.sleep(0.01)
        return await super()._generate(request)

    async def _health(self, request: web.Request) -> web.Response:
        self.num_checks += 1
        return await super()._health(request)


def test_a_slow_server_of_a_fleet_is_not_fenced_the_others_take_what_is_new_and_the_record_tells_which_it_is(
    tmp_path: Path,
) -> None:
    with FakeServer() as one, FakeServer() as other, Slow([one, other], 8) as slow:
        section = RolloutSection(
            server="external",
            urls=(one.url, slow.url, other.url),
            silence_timeout_s=SLOW_S / 2,  # it says in time that it is well
            request_timeout_s=600,
        )
        with Fleet.start(section, tmp_path, "v0", tmp_path) as fleet:
            asked = requests(9, prompts=9)
            with fleet.stream() as stream:
                stream.add(asked[:3])  # one for each
                done = [stream.take()]
                for request in asked[3:]:
                    stream.add([request])
                    done.append(stream.take())
                while stream.num_open:
                    done.append(stream.take())
            assert sorted(each.rid for some in done for each in complete(some)) == [r.rid for r in asked]
            fleet.update_weights(FolderWeights(tmp_path, "v1"))  # and the next step goes on
            assert len(fleet.generate(requests(3, prompts=3))) == 3
            record = fleet.take_stats()
            assert all(server.is_serving for server in fleet.servers)
        assert slow.num_requests == 2 and slow.num_checks >= 2
        assert (record["lost_requests"], record["server_restarts"], record["server_events"]) == (0, 0, [])
        rates = record["server_tokens_per_s"]
        assert min(rates) == rates[1] and rates[1] > 0, rates


def test_the_samples_of_a_prompt_go_to_one_server(tmp_path: Path) -> None:
    with FakeServer() as one, FakeServer() as other, attach([one, other], tmp_path) as fleet:
        fleet.generate(requests(12, prompts=3))
        assert sorted((one.num_requests, other.num_requests)) == [4, 8]


def test_new_prompts_go_to_the_server_with_the_fewest_requests_under_way(tmp_path: Path) -> None:
    with FakeServer() as one, FakeServer() as other, attach([one, other], tmp_path) as fleet, fleet.stream() as stream:
        other.holds = lambda body: True
        asked = requests(6, prompts=6)
        stream.add(asked[:2])  # one each; the second stays
        for request in asked[2:]:
            stream.take()
            stream.add([request])
        stream.take()
        assert (one.num_requests, other.num_requests) == (5, 1)


def test_a_server_that_keeps_old_weights_is_fenced_and_asked_again(tmp_path: Path) -> None:
    with FakeServer() as fake, attach([fake], tmp_path, max_restarts=1) as fleet:
        fake.confirms_updates = False
        used_up = r"serves weights 'v0' after an update to 'v1'; rollout\.max_restarts = 1 within .* is used up"
        with pytest.raises(RolloutError, match=used_up):
            fleet.update_weights(FolderWeights(tmp_path, "v1"))
        assert fake.num_updates == 3  # with the others, alone, and after a wait for its return


def test_colocated_servers_free_their_memory_and_take_it_back_around_new_weights(tmp_path: Path) -> None:
    with FakeServer() as fake, attach([fake], tmp_path, colocated=True) as fleet:
        fleet.release_memory()
        fleet.update_weights(FolderWeights(tmp_path, "v1"))
        fleet.update_weights(FolderWeights(tmp_path, "v2"))
        calls = [call for call in fake.calls if call != "/health"]
    assert calls == [
        "/pause_generation",
        "/release_memory_occupation kv_cache weights",
        "/pause_generation",
        "/resume_memory_occupation weights",
        "/update_weights_from_disk",
        "/resume_memory_occupation kv_cache",
        "/continue_generation",
        "/pause_generation",
        "/update_weights_from_disk",
        "/continue_generation",
    ]


FREE = "/release_memory_occupation kv_cache weights"


def test_a_colocated_server_that_fails_to_take_its_memory_back_takes_no_part_of_it_twice(tmp_path: Path) -> None:
    with FakeServer() as fake, attach([fake], tmp_path, colocated=True) as fleet:
        fleet.release_memory()
        fake.fails = ["/resume_memory_occupation kv_cache"]
        fleet.update_weights(FolderWeights(tmp_path, "v1"))
        memory = [call for call in fake.calls if "memory" in call]
        assert len(fleet.generate(requests(2))) == 2
    assert memory == [
        FREE,
        "/resume_memory_occupation weights",
        "/resume_memory_occupation kv_cache",
        "/resume_memory_occupation kv_cache",
    ]
    assert fake.num_updates == 2, "what was loaded before the failure is not trusted"


def test_a_colocated_server_that_is_lost_comes_back_before_it_is_freed(tmp_path: Path) -> None:
    with FakeServer() as fake, attach([fake], tmp_path, colocated=True) as fleet:
        fake.fails = [FREE]
        fleet.release_memory()
        assert [call for call in fake.calls if "memory" in call] == [FREE, FREE]
        assert all(server.freed for server in fleet.servers)


def test_a_server_that_never_frees_its_memory_stops_the_run(tmp_path: Path) -> None:
    with FakeServer() as fake, attach([fake], tmp_path, colocated=True, max_attempts=2) as fleet:
        fake.fails = [FREE] * 9
        with pytest.raises(
            RolloutError, match=r"refused release memory with 500.*in all 2 attempts \(rollout\.max_attempts\)"
        ):
            fleet.release_memory()


def test_a_reply_from_weights_of_another_version_is_never_used(tmp_path: Path) -> None:
    with FakeServer() as fake, attach([fake], tmp_path, max_attempts=2) as fleet:
        fleet.update_weights(FolderWeights(tmp_path, "v1"))
        stale = [{"version": "v0", "start": 0, "end": 4}]
        fake.faults = [lambda reply: reply | {"meta_info": reply["meta_info"] | {"weight_versions": stale}}]
        assert fleet.generate(requests(1))[0].weight_versions[0].version == "v1"
        assert losses(fleet)["lost_requests"] == 1
        fake.faults = [lambda reply: reply | {"meta_info": reply["meta_info"] | {"weight_versions": stale}}] * 9
        with pytest.raises(RolloutError, match=r"sampled from weights 'v0', current are \['v1'\]"):
            fleet.generate(requests(1))


def test_a_server_that_loads_but_is_never_well_uses_up_its_budget(tmp_path: Path) -> None:
    with FakeServer() as fake, attach([fake], tmp_path, max_restarts=1, start_timeout_s=0.5) as fleet:
        fake.is_ill = True
        fake.faults = [GARBAGE["nothing"]]
        with pytest.raises(RolloutError, match=r"took weights 'v0' and is not healthy|did not come back within"):
            fleet.generate(requests(1))


def test_weights_that_move_on_while_a_server_comes_back_are_what_it_serves(tmp_path: Path) -> None:
    with FakeServer() as one, FakeServer() as two, attach([one, two], tmp_path) as fleet:
        for number in range(1, 30):
            two.faults = [GARBAGE["nothing"]]  # fenced, well, and back: in a race with the update
            fleet.generate(requests(4))
            fleet.update_weights(FolderWeights(tmp_path, f"v{number}"))
            assert one.version == two.version == f"v{number}"
            assert all(server.is_serving for server in fleet.servers)


def test_an_external_server_is_waited_for_while_a_proxy_answers_in_its_place(tmp_path: Path) -> None:
    with FakeServer() as fake, attach([fake], tmp_path, max_restarts=1, start_timeout_s=60) as fleet:
        fake.is_missing, fake.faults = True, []

        def mend(_line: str) -> None:
            threading.Timer(1.0, lambda: setattr(fake, "is_missing", False)).start()

        fleet.recovery.note = mend
        with pytest.raises(RolloutError, match="refused request r000 with 404"):
            fleet.generate(requests(1))  # a 404 is a refusal of the request...
        fleet.update_weights(FolderWeights(tmp_path, "v1"))  # ... and of an update; then the server is waited for
        assert losses(fleet)["server_restarts"] == 1
        assert [c.weight_versions[0].version for c in fleet.generate(requests(4))] == ["v1"] * 4


def test_an_external_server_that_stays_away_misses_its_deadline(tmp_path: Path) -> None:
    fake = FakeServer()
    with fake:
        fleet = attach([fake], tmp_path, start_timeout_s=0.4)
    away = r"did not come back within rollout\.start_timeout_s = 0\.4 s$"
    with fleet, pytest.raises(RolloutError, match=away) as error:
        fleet.generate(requests(2))
    assert has_waited_in_vain(error.value)
    assert fleet.stats.num_restarts == 1, "waiting again and again would take its deadline for nothing"


def test_an_input_id_beyond_the_vocabulary_is_never_sent(tmp_path: Path) -> None:
    with FakeServer() as fake:
        section = RolloutSection(server="external", urls=(fake.url,))
        with (
            Fleet.start(section, tmp_path, "v0", tmp_path, vocab_size=int(PROMPT_IDS.max())) as fleet,
            pytest.raises(RolloutError, match=r"prompt p0: input id \d+ is outside the model's vocabulary of \d+"),
        ):
            fleet.generate(requests(1))
        assert fake.num_requests == 0
