"""What carriers say to servers of several ranks: places in a group, names, types and shapes of what is coming."""

import asyncio
import base64
import itertools
import pickle
import socket
from collections.abc import Callable, Coroutine, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from egrc_mega.rollout.errors import ServerLost
from egrc_mega.sync import distributed
from egrc_mega.sync.distributed import Broadcast
from egrc_mega.sync.ipc import Handles
from egrc_mega.sync.spool import Bucket

TENSORS = {
    "a": torch.arange(6, dtype=torch.float32).view(2, 3),
    "b": torch.arange(4, dtype=torch.bfloat16),
    "c": torch.arange(24, dtype=torch.float32).view(4, 3, 2) / 7,
}
BUCKET = Bucket(list(TENSORS.items()), is_last=True)


class Client:
    """A server of so many ranks, and what it is told."""

    def __init__(self, num_ranks: int, url: str = "http://127.0.0.1:1") -> None:
        self.ranks, self.url = num_ranks, url
        self.joined: list[tuple[Any, ...]] = []
        self.left: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.fails = False

    async def num_ranks(self) -> int:
        return self.ranks

    async def init_weights_update_group(self, *place: Any) -> None:
        self.joined.append(place)

    async def destroy_weights_update_group(self, name: str) -> None:
        self.left.append(name)

    async def update_weights_from_distributed(self, body: dict[str, Any], timeout_s: float) -> None:
        self.bodies.append(body)
        if self.fails:
            raise ServerLost("gone")

    async def update_weights_from_tensor(self, body: dict[str, Any], timeout_s: float) -> None:
        await asyncio.sleep(0)
        self.bodies.append(body)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What rank 0 broadcasts, and the groups that it joins and leaves; there is no network."""
    told: list[Any] = []
    numbers = itertools.count()
    store = SimpleNamespace(port=4711)
    monkeypatch.setattr(distributed.group, "open_store", lambda address: store)
    monkeypatch.setattr(
        distributed.group,
        "join",
        lambda store, rank, size, name, *more: told.append((rank, size, name)) or next(numbers),
    )
    monkeypatch.setattr(distributed.group, "broadcast", lambda group, tensor: told.append((group, tensor)))
    monkeypatch.setattr(distributed.group, "leave", lambda group: told.append(("leave", group)))
    return told


def run(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return asyncio.run(asyncio.wait_for(work(), 60))


def test_every_rank_of_every_server_has_a_place_of_its_own_behind_ours(sent: list[Any]) -> None:
    clients = [Client(2), Client(1), Client(3)]
    assert run(lambda: Broadcast("gloo", flatten=False).connect(clients, 5.0)) is True  # type: ignore[arg-type]
    [(rank, size, name)] = sent
    assert (rank, size) == (0, 7)
    for client, offset in zip(clients, (1, 3, 4), strict=True):
        [(address, port, at, world_size, own_name, backend, _timeout_s)] = client.joined
        assert (address, port, at, world_size) == ("127.0.0.1", 4711, offset, 7)
        assert (own_name, backend) == (name, "gloo")


def test_where_one_server_is_elsewhere_all_find_us_under_the_address_that_it_sees(
    sent: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {"http://127.0.0.1:1": "127.0.0.1", "http://there:1": "10.0.0.5"}
    monkeypatch.setattr(distributed, "own_address", seen.__getitem__)
    for urls in (["http://127.0.0.1:1", "http://there:1"], ["http://there:1", "http://127.0.0.1:1"]):
        clients = [Client(1, url) for url in urls]
        run(lambda clients=clients: Broadcast("gloo", flatten=False).connect(clients, 5.0))
        assert [client.joined[0][0] for client in clients] == ["10.0.0.5"] * 2


def test_a_server_elsewhere_finds_us_where_our_way_to_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    reached: list[Any] = []

    class Probe:
        def __init__(self, family: int, kind: int) -> None:
            assert (family, kind) == (socket.AF_INET, socket.SOCK_DGRAM)

        def __enter__(self) -> "Probe":
            return self

        def __exit__(self, *_error: object) -> None: ...

        def connect(self, address: tuple[str, int]) -> None:
            reached.append(address)

        def getsockname(self) -> tuple[str, int]:
            return "10.0.0.5", 40001

    found = [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("10.0.0.9", 9))]
    monkeypatch.setattr(distributed.socket, "getaddrinfo", lambda host, port, type: found)
    monkeypatch.setattr(distributed.socket, "socket", Probe)
    assert distributed.own_address("http://there:30000") == "10.0.0.5"
    assert reached == [("10.0.0.9", 9)]


def test_a_group_stays_while_its_servers_are_the_same_and_is_left_and_named_anew_when_not(sent: list[Any]) -> None:
    carrier = Broadcast("gloo", flatten=False)
    one, two, three = Client(1), Client(1), Client(1)

    async def work() -> list[bool]:
        rows = [[one, two], [one, two], [one, three], [three, one], [one]]
        return [await carrier.connect(row, 5.0) for row in rows]  # type: ignore[arg-type]

    assert run(work) == [True, False, True, True, True]
    names = [told[2] for told in sent if told[0] == 0]
    assert len(names) == len(set(names)) == 4
    assert one.left == names[:3] and two.left == names[:1] and three.left == names[1:3]


class AtOnce:
    """A thread that has run when it is started."""

    def __init__(self, target: Callable[..., None], args: Sequence[Any] = (), **_more: Any) -> None:
        self.start = lambda: target(*args)


def test_after_a_disconnect_the_group_is_left_once_and_the_next_one_is_new(
    sent: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed.threading, "Thread", AtOnce)
    carrier, client = Broadcast("gloo", flatten=False), Client(1)

    async def work() -> list[bool]:
        first = await carrier.connect([client], 5.0)  # type: ignore[list-item]
        carrier.disconnect()
        return [first, await carrier.connect([client], 5.0)]  # type: ignore[list-item]

    assert run(work) == [True, True]
    assert [told[:2] for told in sent] == [(0, 2), ("leave", 0), (0, 2)]
    # nobody is told to leave: who failed may not answer
    assert client.left == []


@pytest.mark.parametrize("flatten", [False, True])
def test_a_bucket_is_described_tensor_by_tensor_and_broadcast_in_that_order(flatten: bool, sent: list[Any]) -> None:
    carrier, clients = Broadcast("gloo", flatten=flatten), [Client(1), Client(1)]

    async def work() -> None:
        await carrier.connect(clients, 5.0)  # type: ignore[arg-type]
        await carrier.send(BUCKET, {"weight_version": "v1", "flush_cache": True}, 5.0)

    run(work)
    (_rank, _size, name), *parcels = sent
    for client in clients:
        assert client.bodies == [
            {
                "weight_version": "v1",
                "flush_cache": True,
                "names": ("a", "b", "c"),
                "dtypes": ["float32", "bfloat16", "float32"],
                "shapes": [[2, 3], [4], [4, 3, 2]],
                "group_name": name,
                "load_format": "flattened_bucket" if flatten else None,
            }
        ]
    raw = [tensor.reshape(-1).view(torch.uint8).tolist() for tensor in TENSORS.values()]
    found = [tensor.reshape(-1).view(torch.uint8).tolist() for _group, tensor in parcels]
    assert found == ([[byte for part in raw for byte in part]] if flatten else raw)


def test_a_broadcast_that_breaks_and_a_server_that_is_lost_amid_one_are_losses(
    sent: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    carrier, client = Broadcast("gloo", flatten=False), Client(1)

    def broken(_group: Any, _tensor: Any) -> None:
        raise RuntimeError("connection closed by peer")

    async def send() -> None:
        await carrier.connect([client], 5.0)  # type: ignore[list-item]
        await carrier.send(BUCKET, {}, 5.0)

    client.fails = True
    with pytest.raises(ServerLost, match="gone"):
        run(send)
    client.fails = False
    monkeypatch.setattr(distributed.group, "broadcast", broken)
    with pytest.raises(ServerLost, match="a weight-update group broke: connection closed by peer"):
        run(send)


def test_when_one_server_is_lost_nobody_waits_for_the_others_and_their_calls_end(sent: list[Any]) -> None:
    carrier, lost, slow = Broadcast("gloo", flatten=False), Client(1), Client(1)
    ended: list[str] = []

    async def forever(_body: Any, _timeout_s: float) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    lost.fails = True
    slow.update_weights_from_distributed = forever  # type: ignore[method-assign]

    async def send() -> None:
        await carrier.connect([lost, slow], 5.0)  # type: ignore[list-item]
        with pytest.raises(ServerLost, match="gone"):
            await carrier.send(BUCKET, {}, 5.0)
        await asyncio.sleep(0)
        assert ended == ["cancelled"]

    run(send)


def test_every_rank_of_every_server_gets_a_payload_of_its_own_under_the_buckets_label() -> None:
    carrier, clients = Handles("cpu"), [Client(2), Client(1), Client(3)]

    async def work() -> None:
        assert await carrier.connect(clients, 5.0)  # type: ignore[arg-type]
        await carrier.send(BUCKET, {"weight_version": "v1", "flush_cache": False}, 5.0)

    run(work)
    for client in clients:
        [body] = client.bodies
        texts = body.pop("serialized_named_tensors")
        assert body == {"weight_version": "v1", "flush_cache": False}
        assert len(texts) == client.ranks
        for text in texts:
            loaded = dict(pickle.loads(base64.b64decode(text)))
            assert list(loaded) == list(TENSORS)
            assert all(torch.equal(loaded[name], tensor) for name, tensor in TENSORS.items())
