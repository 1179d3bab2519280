"""When somebody does not come for whom a run waits, all ranks say where they are, and the error goes its way."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from egrc_mega.config.config import Config
from egrc_mega.errors import RolloutError
from egrc_mega.observe.hangs import FOLDER, HangWatch, introduction
from egrc_mega.sync.publisher import Publisher
from egrc_mega.testing.fake_run import FakeRun, Notes
from egrc_mega.training import run as run_module

pytestmark = pytest.mark.usefixtures("world_of_one")


def no_server_comes(*_: Any, **__: Any) -> Any:
    raise RolloutError("no server comes up") from TimeoutError()


@pytest.mark.parametrize("is_starting", [True, False])
def test_servers_that_keep_a_run_waiting_beyond_their_limit_are_reported(
    is_starting: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(
        run={"dir": tmp_path / "run"},
        model={"path": tmp_path},
        data={"train": tmp_path},
        evaluation={"data": tmp_path},
        stages=[{"method": "compress", "steps": 1, "clip_len": 8}],
    )
    monkeypatch.setattr(run_module, "Lead", no_server_comes)
    run = FakeRun(config, Notes())
    store: Any = SimpleNamespace(close=lambda: None, publisher=Publisher(no_server_comes))
    run.store, run.lead = store, store
    watch = HangWatch(tmp_path, 0, [introduction()], 600.0, "policy.distributed_timeout_s")
    with watch as run.watch, run.stack, pytest.raises(RolloutError, match="no server comes up"):
        run._start_lead() if is_starting else run.on_lead(no_server_comes)
    (report,) = (tmp_path / FOLDER).iterdir()
    text = report.read_text()
    assert "the run waits in vain: no server comes up" in text and "(no_server_comes)" in text
    assert "awaits servers, graders or files" in text
