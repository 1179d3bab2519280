"""Buckets that do not arrive are sent once more over a new connection, else it is an error and no connection stays."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from egrc_mega.errors import RolloutError
from egrc_mega.rollout.errors import RequestRefused, ServerLost
from egrc_mega.sync import group
from egrc_mega.sync.buckets import StreamedWeights, StreamSync
from egrc_mega.sync.distributed import Broadcast
from egrc_mega.sync.spool import Bucket, Spool

LOST, REFUSED = ServerLost("gone"), RequestRefused("out of memory")


class Client:
    """Has no sessions, and says that it serves what it was given; a stubborn one does not."""

    def __init__(self, stubborn: bool = False) -> None:
        self.stubborn, self.confirmed = stubborn, 0

    async def begin_weight_update(self) -> bool:
        return False

    async def confirm(self, version: str) -> None:
        self.confirmed += 1
        if self.stubborn:
            raise ServerLost(f"serves something else than {version}")


class Carrier:
    """Fails as it is told, once a bucket, and has a connection from the first version on until it is disconnected."""

    def __init__(self, *errors: BaseException | None, is_connected: bool) -> None:
        self.errors, self.is_connected = list(errors), is_connected
        self.said: list[str] = []

    async def connect(self, clients: Sequence[Any], timeout_s: float) -> bool:
        is_new, self.is_connected = not self.is_connected, True
        self.said.append("new" if is_new else "old")
        return is_new

    async def send(self, bucket: Any, label: dict[str, Any], timeout_s: float) -> None:
        self.said.append("send")
        if error := self.errors.pop(0) if self.errors else None:
            raise error

    def disconnect(self) -> None:
        self.is_connected = False
        self.said.append("leave")


def spool() -> Spool:
    own = Spool(8)
    own.fill(iter(()), None)  # type: ignore[arg-type]
    return own


def load(carrier: Carrier, clients: Sequence[Client]) -> None:
    weights = StreamedWeights(spool(), carrier, "v1")
    asyncio.run(asyncio.wait_for(weights.load_into(clients, 1.0), 60))  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [LOST, REFUSED])
@pytest.mark.parametrize("count", [1, 2])
def test_what_an_old_connection_has_lost_is_sent_once_more_over_a_new_one(error: RolloutError, count: int) -> None:
    carrier, clients = Carrier(error, is_connected=True), [Client() for _ in range(count)]
    load(carrier, clients)
    assert carrier.said == ["old", "send", "leave", "new", "send"]
    assert [client.confirmed for client in clients] == [1] * count


@pytest.mark.parametrize("is_connected", [False, True])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("error", [LOST, REFUSED])
def test_what_a_new_connection_loses_is_the_error_and_of_several_a_refusal_may_be_anothers_loss(
    error: RolloutError, count: int, is_connected: bool
) -> None:
    carrier = Carrier(error, error, error, is_connected=is_connected)
    expected = RequestRefused if error is REFUSED and count == 1 else ServerLost
    with pytest.raises(RolloutError, match=str(error)) as caught:
        load(carrier, [Client() for _ in range(count)])
    assert type(caught.value) is expected
    assert carrier.said == [*(["old", "send", "leave"] if is_connected else []), "new", "send", "leave"]


def test_a_server_that_does_not_even_join_is_not_asked_to_join_again() -> None:
    """Whoever recovers it asks; here the others would wait for it once more."""

    class Unreachable(Carrier):
        async def connect(self, clients: Sequence[Any], timeout_s: float) -> bool:
            self.said.append("connect")
            raise LOST

    carrier = Unreachable(is_connected=False)
    with pytest.raises(ServerLost, match="gone"):
        load(carrier, [Client(), Client()])
    assert carrier.said == ["connect", "leave"]


def test_after_any_other_error_no_connection_is_trusted_either() -> None:
    carrier = Carrier(KeyError("a mistake of ours"), is_connected=True)
    with pytest.raises(KeyError, match="a mistake of ours"):
        load(carrier, [Client()])
    assert carrier.said == ["old", "send", "leave"]


@pytest.mark.parametrize("number", [0, 1])
def test_every_server_is_asked_what_it_serves_and_any_that_serves_something_else_is_lost(number: int) -> None:
    carrier, clients = Carrier(is_connected=False), [Client(), Client()]
    clients[number].stubborn = True
    with pytest.raises(ServerLost, match="serves something else than v1"):
        load(carrier, clients)
    assert [client.confirmed for client in clients] == [1, 1]


@pytest.mark.parametrize("in_flight", [False, True])
def test_a_version_is_forgotten_before_the_next_is_filled_in_and_in_flight_filled_before_it_is_sent(
    in_flight: bool,
) -> None:
    calls: list[str] = []

    class Noting(Spool):
        def clear(self) -> None:
            calls.append("clear")
            super().clear()

        def fill(self, tensors: Any, dtype: Any) -> None:
            calls.append("fill")

    class Servers:
        def update_weights(self, weights: Any, produce: Any, before: Any) -> None:
            before()
            calls.append(weights.version)
            produce()

        def stage_weights(self, weights: Any, fill: Any) -> Any:
            fill()
            return lambda: calls.append(weights.version)

    nothing: Any = None
    sync = StreamSync(Noting(8), Carrier(is_connected=False), Servers())
    for version in ("v1", "v2"):
        if in_flight:
            sync.stage(iter(()), nothing, nothing, version)()
        else:
            sync.publish(iter(()), nothing, nothing, version)
    assert calls == (
        ["clear", "fill", "v1", "clear", "fill", "v2"] if in_flight else ["clear", "v1", "fill", "clear", "v2", "fill"]
    )


def test_whoever_hears_of_a_broken_broadcast_holds_no_group_so_that_its_other_members_hear_of_it_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Gloo's connections end with the last reference to a group; a member would wait for its bucket until then."""

    class Group:
        pass

    class Waiting:
        async def update_weights_from_distributed(self, _body: Any, _timeout_s: float) -> None:
            await asyncio.Event().wait()

    def broadcast(_members: Any, _tensor: Any) -> None:
        try:
            raise RuntimeError("Connection reset by peer")
        except RuntimeError as error:
            raise TimeoutError(str(error)) from error

    monkeypatch.setattr(group, "broadcast", broadcast)
    carrier: Any = Broadcast("gloo", flatten=False)
    carrier._clients, carrier._group = (Waiting(),), Group()
    held = weakref.ref(carrier._group)

    async def send() -> object:
        try:
            await carrier.send(Bucket([("w", torch.ones(1))], is_last=True), {}, 60.0)
        except ServerLost:
            carrier._group = None
            for thread in threading.enumerate():
                if thread.name == "weights":
                    thread.join(60)
            return held()
        pytest.fail("it has arrived")

    gc.disable()
    try:
        assert asyncio.run(asyncio.wait_for(send(), 60)) is None
    finally:
        gc.enable()
