"""How long a weight-update group waits: for its members to join one time, for each broadcast from then on another."""

from datetime import timedelta

import psutil
import torch

from egrc_mega.sync import group


def test_each_broadcast_has_the_groups_own_deadline_and_not_that_of_joining() -> None:
    own = group.join(group.open_store("127.0.0.1"), 0, 1, "test-deadline", "gloo", 7.0)
    assert group.JOIN_TIMEOUT_S != 7.0
    assert own._get_backend(torch.device("cpu")).options._timeout == timedelta(seconds=7)
    group.leave(own)


def test_the_meeting_point_is_open_at_its_address_only() -> None:
    store = group.open_store("127.0.0.1")
    listening = [c.laddr for c in psutil.Process().net_connections() if c.status == psutil.CONN_LISTEN]
    assert [address.ip for address in listening if address.port == store.port] == ["127.0.0.1"]
