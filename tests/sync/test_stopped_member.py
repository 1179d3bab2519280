"""A server that is stopped while weights are sent to it is one that somebody has waited for in vain, as any other."""

import asyncio
import os
import signal
from pathlib import Path

import pytest
import torch

from egrc_mega.errors import has_waited_in_vain
from egrc_mega.rollout.client import ServerClient, open_session
from egrc_mega.rollout.errors import ServerLost
from egrc_mega.rollout.start.process import embedded_server
from egrc_mega.sync import group
from egrc_mega.sync.distributed import Broadcast
from egrc_mega.sync.spool import Bucket

BEYOND_BUFFERS = torch.zeros(2**22)
"""16 MiB: what the sockets between two processes of a machine do not take without a reader."""


def test_a_broadcast_that_a_stopped_server_does_not_take_ends_by_a_limit_of_time(
    base_model: Path, tmp_path: Path
) -> None:
    server = embedded_server(base_model, port=0, weight_version="a", max_batch_size=1, log=tmp_path / "log")

    async def send(url: str) -> None:
        async with await open_session() as session:
            carrier, client = Broadcast("gloo", flatten=False), ServerClient(session, url, 600.0)
            assert await carrier.connect([client], 0.3)  # the group's; the server's own call may take longer
            os.kill(server.process.pid, signal.SIGSTOP)
            await carrier.send(Bucket([("a", BEYOND_BUFFERS)], is_last=True), {}, 600.0)

    try:
        with pytest.raises(ServerLost, match=r"a weight-update group broke: .*Timed out waiting 300ms") as lost:
            asyncio.run(send(server.wait_until_ready(240)))
    finally:
        server.process.kill()
        server.stop()
    assert has_waited_in_vain(lost.value)


def test_a_member_that_does_not_come_is_a_limit_of_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(group, "JOIN_TIMEOUT_S", 0.2)
    with pytest.raises(TimeoutError, match="wait timeout after 200ms"):
        group.join(group.open_store("127.0.0.1"), 0, 2, "test-nobody", "gloo", 1.0)


@pytest.mark.parametrize(
    ("message", "is_limit"),
    [
        ("[pair.cc:129] Timed out waiting 1800000ms for send operation to complete", True),
        ("Application timeout caused pair closure", True),
        ("[Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=3, OpType=BROADCAST, "
         "Timeout(ms)=600000) ran for 600038 milliseconds before timing out.", True),
        ("The client socket has timed out after 60000ms while trying to connect to (10.0.0.1, 4711).", True),
        ("NCCL communicator was aborted on rank 0. WorkNCCL(OpType=BROADCAST, Timeout(ms)=600000)", False),
        ("[pair.cc:553] Connection closed by peer [127.0.0.1]:52892.", False),
    ],
)  # fmt: skip
def test_what_torch_says_of_a_limit_of_time_is_told_from_other_errors(message: str, is_limit: bool) -> None:
    assert bool(group.TIMED_OUT.search(message)) is is_limit
