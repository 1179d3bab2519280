"""What a run tells of itself while it goes on: to Prometheus, within bounds, and never at its own cost."""

import socket
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from egrc_mega.observe.exposition import exposition
from egrc_mega.rollout.state import State
from egrc_mega.sections.run import ObserveSection
from egrc_mega.testing.records import make_record
from egrc_mega.testing.scraped import Samples, parse, scrape
from egrc_mega.training.live import Live, kept_in_a_file, metrics_endpoint


def make_live(record: dict[str, Any] | None = None) -> Live:
    servers: Any = [
        SimpleNamespace(
            number=number,
            client=SimpleNamespace(url=f"http://127.0.0.1:{number}"),
            state=state,
            in_flight=3 + number,
            num_waiting=number,
        )
        for number, state in enumerate((State.SERVING, State.LOST))
    ]
    newest = {"step": {"kind": "step", "time": 1e9} | record} if record else {}
    return Live(Path("/runs/mine"), newest, servers)


def of(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def test_every_number_of_the_step_and_every_server_can_be_scraped(free_port: int) -> None:
    record = make_record(
        7, total=9, method="egrc", server_tokens_per_s=[10.0, 20.5], reward=None, updated=True, server_events=["a"]
    )
    said: list[str] = []
    with metrics_endpoint(ObserveSection(prometheus_port=free_port), make_live(record), said.append):
        samples = scrape(f"http://127.0.0.1:{free_port}/metrics")
    assert said == [f"metrics for Prometheus at http://127.0.0.1:{free_port}/metrics"]
    numbers = {name for name, value in record.items() if isinstance(value, int | float)}
    assert {f"egrc_{name}" for name in numbers} <= {name for name, _ in samples}
    assert of(samples, "egrc_step") == 7 and of(samples, "egrc_total_steps") == 9 and of(samples, "egrc_updated") == 1
    assert of(samples, "egrc_stage", stage=record["stage"], method=record["method"]) == 1
    assert of(samples, "egrc_tokens_per_s") == record["tokens_per_s"]
    assert of(samples, "egrc_step_timestamp_seconds") == 1e9
    assert of(samples, "egrc_server_tokens_per_s", server="1") == 20.5
    second = {"server": "1", "url": "http://127.0.0.1:1"}
    states = {state: of(samples, "egrc_server_state", **second, state=state) for state in State}
    assert states == {state: float(state is State.LOST) for state in State}
    assert of(samples, "egrc_server_requests_in_flight", **second) == 4
    assert of(samples, "egrc_server_requests_waiting", **second) == 1
    assert not any(name in ("egrc_reward", "egrc_server_events") for name, _ in samples)
    rates = [server["tokens_per_s"] for server in make_live(record).snapshot()["servers"]]
    assert rates == [10.0, 20.5]  # which one is slow
    assert {server["tokens_per_s"] for server in make_live().snapshot()["servers"]} == {None}
    live = make_live(record)
    live.servers = [*live.servers, live.servers[0]]  # spare ones come last, and have no part in steps
    told = [(server["number"], server["tokens_per_s"]) for server in live.snapshot()["servers"]]
    assert told == [(0, 10.0), (1, 20.5), (2, None)]


def test_before_the_first_step_there_are_the_servers_and_the_phase() -> None:
    names = {name for name, _ in parse(exposition(make_live().snapshot()))}
    assert "egrc_server_state" in names and "egrc_phase_seconds" in names and "egrc_step" not in names


def test_texts_and_numbers_of_others_stay_within_the_format() -> None:
    nasty = 'a"b\\c\nd} 1'
    record = make_record(1, stage=nasty, method="egrc", loss=float("nan"), kl=float("inf"), lr=1e-7) | {"method_x y": 2}
    samples = parse(exposition(make_live(record).snapshot()))
    assert of(samples, "egrc_stage", stage=nasty, method=record["method"]) == 1
    assert str(of(samples, "egrc_loss")) == "nan" and of(samples, "egrc_kl") == float("inf")
    assert of(samples, "egrc_lr") == 1e-7 and of(samples, "egrc_method_x_y") == 2


def test_a_port_that_is_taken_is_one_line_and_ends_nothing() -> None:
    said: list[str] = []
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with metrics_endpoint(ObserveSection(prometheus_port=port), make_live(), said.append):
            pass
    assert said == [
        f"observe.prometheus_port: 127.0.0.1:{port} cannot be used (Address already in use); the run goes on without it"
    ]


def test_nothing_listens_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("egrc_mega.training.live.BoundedServer", None)
    with metrics_endpoint(ObserveSection(), make_live(), print):
        pass


def test_the_endpoint_is_gone_when_the_run_is(free_port: int) -> None:
    with metrics_endpoint(ObserveSection(prometheus_port=free_port), make_live(), print):
        pass
    with pytest.raises(OSError, match="refused"):
        scrape(f"http://127.0.0.1:{free_port}/metrics")


def test_the_present_state_stands_in_a_file_while_the_run_goes_on(tmp_path: Path) -> None:
    live = make_live(make_record(1, method="egrc"))
    live.run_dir, live.ranks = tmp_path, [{"host": "h", "pid": 1}]
    file = tmp_path / "live.json"
    with kept_in_a_file(live, write_s=0.001):
        deadline = time.monotonic() + 60
        while not file.exists() and time.monotonic() < deadline:
            time.sleep(0.001)
        found = orjson.loads(file.read_bytes())
    assert found["ranks"] == [{"host": "h", "pid": 1}] and found["record"] is None
    assert [server["state"] for server in found["servers"]] == ["serving", "lost"]
    assert list(tmp_path.iterdir()) == []


def test_a_state_that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    live = make_live()
    live.run_dir = tmp_path / "gone"
    with kept_in_a_file(live, write_s=0.001):
        time.sleep(0.01)
