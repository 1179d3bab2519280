"""Where the ranks of one machine meet: on loopback, in a store of which nothing is unpickled."""

import base64
import pickle
from pathlib import Path
from typing import Any

import psutil
import pytest
from torch.distributed import TCPStore
from torch.distributed.elastic.rendezvous import RendezvousParameters, rendezvous_handler_registry

from egrc_mega.launch import agent, loopback
from egrc_mega.parent import LAUNCHER

PARAMETERS = RendezvousParameters(loopback.ON_LOOPBACK, "", "none", 1, 1)


class Canary:
    """Touches a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


def test_nobody_of_another_machine_reaches_the_store_and_what_is_put_into_it_is_not_unpickled(tmp_path: Path) -> None:
    meeting = loopback.LoopbackRendezvous(PARAMETERS)
    info = meeting.next_rendezvous()
    place = info.bootstrap_store_info
    assert place is not None and (info.rank, info.world_size) == (0, 1)
    listening = [c.laddr for c in psutil.Process().net_connections() if c.status == psutil.CONN_LISTEN]
    assert [address.ip for address in listening if address.port == place.master_port] == ["127.0.0.1"]
    stranger = TCPStore(place.master_addr, place.master_port, is_master=False)
    info.store.set("known", "1")
    for key in [*stranger.list_keys(), "torch.rendezvous.none"]:
        stranger.set(key, base64.b64encode(pickle.dumps(Canary(tmp_path / "run"))))
    assert meeting.num_nodes_waiting() == 0 and not meeting.is_closed()
    assert meeting.next_rendezvous().bootstrap_store_info == place
    assert not (tmp_path / "run").exists()
    assert pickle.loads(pickle.dumps(Canary(tmp_path / "run"))) is None and (tmp_path / "run").exists()


def test_torchrun_knows_the_meeting_by_the_name_that_a_launch_gives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LAUNCHER, "")
    made: list[Any] = []
    monkeypatch.setattr(agent, "torchrun", lambda: made.append(rendezvous_handler_registry.create_handler(PARAMETERS)))
    agent.main()
    assert isinstance(made[0], loopback.LoopbackRendezvous) and made[0].get_backend() == loopback.ON_LOOPBACK
