"""Keys and addresses: who may ask a server what, what is refused before anything starts, and that keys show nowhere."""

import os
import socket
import sys
from pathlib import Path

import pytest

from egrc_mega.errors import ConfigError, RolloutError
from egrc_mega.rollout.fleet import Fleet
from egrc_mega.rollout.keys import Keys, url_problem
from egrc_mega.rollout.start.discovery import announced, check_host, find_servers
from egrc_mega.rollout.start.process import ServerProcess
from egrc_mega.rollout.weights import FolderWeights
from egrc_mega.sections.rollout import RolloutSection
from egrc_mega.testing.http import call
from egrc_mega.testing.runs import variables_of
from egrc_mega.testing.samples import PROMPT_IDS
from egrc_mega.testing.tiny_model import write_tiny_qwen2
from egrc_mega.types import RolloutRequest, Sampling

API, ADMIN = "api-4711-secret", "admin-0815-secret"
REQUEST = RolloutRequest(
    rid="r",
    prompt_id="p",
    prompt_ids=PROMPT_IDS,
    sampling=Sampling(temperature=1.0, top_p=1.0, max_new_tokens=4, stop_token_ids=()),
    seed=1,
)


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EGRC_API_KEY", API)
    monkeypatch.setenv("EGRC_ADMIN_API_KEY", ADMIN)


@pytest.mark.usefixtures("keys")
def test_a_run_with_keys_works_and_nobody_else_gets_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = write_tiny_qwen2(tmp_path / "model")
    with Fleet.start(RolloutSection(), model, "v0", tmp_path) as fleet:
        fleet.update_weights(FolderWeights(model, "v1"))
        assert len(fleet.generate([REQUEST])[0].output_ids) > 0
        url = fleet.servers[0].client.url
        assert call(url + "/health")[0] == 200
        for path in ("/generate", "/update_weights_from_disk", "/model_info", "/abort_request"):
            assert call(url + path, {} if path != "/model_info" else None)[0] == 401
        monkeypatch.setenv("EGRC_ADMIN_API_KEY", "wrong")
        section = RolloutSection(server="external", urls=(url,))
        with (
            Fleet.start(section, model, "v0", tmp_path) as stranger,
            pytest.raises(RolloutError, match=r"with 401.*EGRC_API_KEY and EGRC_ADMIN_API_KEY") as raised,
        ):
            assert stranger.generate([REQUEST])  # the first key is right
            stranger.update_weights(FolderWeights(model, "v2"))
        assert API not in str(raised.value) and ADMIN not in str(raised.value)
    written = [file.read_text(errors="replace") for file in tmp_path.rglob("*.log")]
    assert written and not any(key in text for text in written for key in (API, ADMIN))


@pytest.mark.usefixtures("keys")
def test_a_launchers_log_has_no_keys_and_its_command_line_neither(tmp_path: Path) -> None:
    code = "import sys, os; print(sys.argv, open(sys.argv[-1]).read(), os.stat(sys.argv[-1]).st_mode)"
    command = [sys.executable, "-P", "-m", "egrc_mega.rollout.start.guard", sys.executable, "-c", code]
    process = ServerProcess(command, tmp_path / "log", url="http://127.0.0.1:9")
    process.process.wait(30)
    text = (tmp_path / "log").read_text()
    assert "--config" in text and '"api-key": "[key]", "admin-api-key": "[key]"' in text
    assert str(0o100600) in text
    assert API not in text and ADMIN not in text
    assert not Path(text.split("'--config', '")[1].partition("'")[0]).exists()  # it went with the process
    process.stop()


def test_keys_open_what_sglang_opens_with_them() -> None:
    both, one = Keys("a", "b"), Keys("a", None)
    assert both.for_path("/generate") == one.for_path("/generate") == "a"
    assert (both.for_path("/pause_generation"), one.for_path("/pause_generation")) == ("b", "a")
    assert both.for_path("/health") is None
    assert not both.admits("/generate", "Bearer b") and both.admits("/generate", "Bearer a")
    assert Keys().admits("/update_weights_from_disk", "")
    assert "a" not in repr(both).replace("Keys", "")


@pytest.mark.parametrize("verdict", [True, False])
def test_keys_are_compared_in_constant_time(verdict: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[bytes, bytes]] = []
    monkeypatch.setattr("egrc_mega.rollout.keys.hmac.compare_digest", lambda *pair: asked.append(pair) or verdict)
    assert Keys("secret").admits("/generate", "Bearer guess") is verdict
    assert asked == [(b"Bearer guess", b"Bearer secret")]


@pytest.mark.parametrize(
    ("url", "key", "problem"),
    [
        ("http://127.0.0.1:3", None, None),
        ("http://localhost:3", None, None),
        ("http://10.0.0.2:3", None, "is not on this machine, so its servers need a key; give it in EGRC_API_KEY"),
        ("http://10.0.0.2:3", "k", None),
        ("http://me:secret@10.0.0.2:3", "k", "a URL for 10.0.0.2 carries more than an address"),
        ("http://10.0.0.2:3?key=secret", "k", "a URL for 10.0.0.2 carries more than an address"),
        ("10.0.0.2:3", "k", "'10.0.0.2:3' is not a base URL"),
        ("me:secret@10.0.0.2:3", "k", "one of them is not a base URL"),
    ],
)
def test_addresses_that_would_leak_or_stand_open_are_refused(url: str, key: str | None, problem: str | None) -> None:
    found = url_problem(url, Keys(key))
    assert (found is None) == (problem is None)
    assert problem is None or (problem in str(found) and "secret" not in str(found))


def test_listening_to_others_needs_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EGRC_API_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"rollout\.host: 0\.0\.0\.0 can be reached .* EGRC_API_KEY"):
        check_host(RolloutSection(host="0.0.0.0"))
    monkeypatch.setenv("EGRC_API_KEY", API)
    check_host(RolloutSection(host="0.0.0.0"))


def test_servers_are_started_on_addresses_that_urls_can_hold() -> None:
    with pytest.raises(ConfigError, match=r"rollout\.host: servers are started on IPv4 addresses, ::1 is none"):
        check_host(RolloutSection(host="::1"))


def test_servers_are_found_by_url_by_file_and_by_announcement(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("# rack one\nhttp://127.0.0.1:11\n\nhttp://127.0.0.1:12\n")
    section = RolloutSection(
        server="external", urls=("http://127.0.0.1:10",), hosts_file=hosts, announce_dir=tmp_path / "shared"
    )
    with socket.create_server(("127.0.0.1", 0)) as here:
        url = f"http://127.0.0.1:{here.getsockname()[1]}"
        hosts.write_text(f"{hosts.read_text()}{url}\n")  # listed as well
        with announced([url, "http://127.0.0.1:13"], tmp_path / "shared"):  # nobody is at the second: it was killed
            assert find_servers(section) == [*(f"http://127.0.0.1:{port}" for port in (10, 11, 12)), url]
            short = section.model_copy(update={"start_timeout_s": 0.1, "num_servers": 2})
            missing = r"1 of rollout\.num_servers = 2 .*; nobody answers at what \S*-13\.url"
            with pytest.raises(RolloutError, match=missing):
                find_servers(short)
    assert list((tmp_path / "shared").iterdir()) == []
    with pytest.raises(ConfigError, match=r"rollout\.hosts_file: .*nowhere cannot be read"):
        find_servers(RolloutSection(server="external", hosts_file=tmp_path / "nowhere"))


def test_of_all_announcements_only_what_answers_is_taken_and_no_link_is_followed(tmp_path: Path) -> None:
    shared, victim = tmp_path / "shared", tmp_path / "victim"
    shared.mkdir()
    victim.write_text("mine")
    os.mkfifo(shared / "pipe.url")  # whoever opens it waits
    (shared / "endless.url").symlink_to("/dev/zero")
    (shared / "long.url").write_text("http://127.0.0.1:9/" + "x" * 10_000)
    (shared / "bytes.url").write_bytes(b"\xff\xfe")
    (shared / "broken.url").write_text("http://[::1")
    (shared / "port.url").write_text("http://127.0.0.1:99999")
    (shared / "folder.url").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as there:
        url = f"http://127.0.0.1:{there.getsockname()[1]}"
        name = f"{socket.gethostname()}-{there.getsockname()[1]}"
        for suffix in (".tmp", ".url"):
            (shared / f"{name}{suffix}").symlink_to(victim)
        with announced([url], shared):
            section = RolloutSection(server="external", announce_dir=shared, num_servers=1, start_timeout_s=30)
            assert find_servers(section) == [url]
    assert victim.read_text() == "mine"


def test_a_url_that_is_none_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"'http://\[::1' is not a base URL"):
        find_servers(RolloutSection(server="external", urls=("http://[::1",)))


@pytest.mark.usefixtures("keys")
def test_a_server_has_its_keys_and_no_other_secret_of_ours(tmp_path: Path) -> None:
    assert os.environ["EGRC_TESTS_TOKEN"] == "c0ffee"
    child = ServerProcess([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "log")
    variables = variables_of(child.process.pid)
    child.stop()
    assert (variables["EGRC_API_KEY"], variables["EGRC_ADMIN_API_KEY"]) == (API, ADMIN)
    assert "c0ffee" not in variables.values() and variables["PATH"] == os.environ["PATH"]
