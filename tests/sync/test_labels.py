"""What is said with each bucket: no server serves a half, and none keeps a cache of the weights before."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from egrc_mega.sync.buckets import StreamedWeights


class Carrier:
    """Notes labels and connections."""

    def __init__(self) -> None:
        self.labels: list[dict[str, Any]] = []

    async def connect(self, clients: Sequence[Any], timeout_s: float) -> bool:
        return True

    async def send(self, bucket: Any, label: dict[str, Any], timeout_s: float) -> None:
        self.labels.append({"bucket": bucket.number, **label})

    def disconnect(self) -> None: ...


class Client:
    """A server with or without update sessions."""

    def __init__(self, has_session: bool, said: list[str]) -> None:
        self.has_session, self.said = has_session, said

    async def begin_weight_update(self) -> bool:
        self.said.append("begin")
        return self.has_session

    async def end_weight_update(self) -> None:
        self.said.append("end")

    async def confirm(self, version: str) -> None:
        self.said.append(f"confirm {version}")


class Buckets:
    def __init__(self, count: int) -> None:
        self.count = count

    async def buckets(self) -> AsyncIterator[Any]:
        for number in range(self.count):
            yield SimpleNamespace(number=number, is_last=number == self.count - 1)


@pytest.mark.parametrize("count", [1, 3])
def test_only_the_last_bucket_gives_the_version_its_name_and_flushes_the_cache(count: int) -> None:
    carrier, said = Carrier(), []
    weights = StreamedWeights(Buckets(count), carrier, "v4")  # type: ignore[arg-type]
    asyncio.run(weights.load_into([Client(True, said), Client(False, said)], 1.0))  # type: ignore[list-item]
    incomplete = [{"bucket": n, "weight_version": "v4-incomplete", "flush_cache": False} for n in range(count - 1)]
    assert carrier.labels == [*incomplete, {"bucket": count - 1, "weight_version": "v4", "flush_cache": True}]
    carrier.labels.clear()
    asyncio.run(weights.load_into([Client(False, [])], 1.0, keeps_cache=True))  # type: ignore[list-item]
    assert not any(label["flush_cache"] for label in carrier.labels)
    # a session is ended where there is one, and every server must say what it has
    assert said == ["begin", "begin", "end", "confirm v4", "confirm v4"]
