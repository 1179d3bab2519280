"""Looks at the servers while requests are in flight: how many wait there, and whether a server is still at work.

A request's own deadline has room for the longest response; a server that hangs, or whose machine is gone, must not hold
its requests for that long. A slow one is safe: it answers /health as soon as any token comes out of it.
"""

import asyncio
from typing import TYPE_CHECKING

from egrc_mega.rollout.server import Server

if TYPE_CHECKING:
    from egrc_mega.rollout.fleet import Fleet

POLL_S = 1.0


async def watch(fleet: "Fleet") -> None:
    """Until cancelled; each server by itself, so that a silent one hides no other."""
    looks = [look(fleet, server) for server in fleet.servers for look in (_note_queue, _listen)]
    await asyncio.gather(*looks)


async def _note_queue(fleet: "Fleet", server: Server) -> None:
    while True:
        await asyncio.sleep(POLL_S)
        server.num_waiting = (await server.client.num_waiting() or 0) if server.is_serving else 0
        fleet.stats.note_queue(sum(each.num_waiting for each in fleet.servers))


async def _listen(fleet: "Fleet", server: Server) -> None:
    """Hang up on a server of which nothing is heard for `rollout.silence_timeout_s`: it loses its requests."""
    now = asyncio.get_running_loop().time
    since = now()
    while True:
        await asyncio.sleep(POLL_S)
        is_heard = server.must_answer and await server.client.is_healthy()
        if is_heard or not server.must_answer:
            since = now()
        elif now() - max(since, server.client.replied_at) > fleet.section.silence_timeout_s:
            server.client.hang_up()
