"""Looks at the servers while requests are in flight: how many wait there, and whether a server is still at work.

A request's own deadline has room for the longest response; a server that hangs, or whose machine is gone, must not hold
its requests for that long. A slow one is safe: it answers /health as soon as any token comes out of it.
"""

import asyncio
from collections.abc import Sequence

from egrc_mega.rollout.server import Server
from egrc_mega.rollout.stats import FleetStats

POLL_S = 1.0


async def watch(servers: Sequence[Server], stats: FleetStats, silence_timeout_s: float) -> None:
    """Until cancelled; each server by itself, so that a silent one hides no other."""
    queues = [_note_queue(server, servers, stats) for server in servers]
    await asyncio.gather(*queues, *(_listen(server, silence_timeout_s) for server in servers))


async def _note_queue(server: Server, servers: Sequence[Server], stats: FleetStats) -> None:
    """Keep the number of requests that wait in a server up to date, and the largest sum of all servers."""
    while True:
        await asyncio.sleep(POLL_S)
        server.num_waiting = (await server.client.num_waiting() or 0) if server.is_serving else 0
        stats.note_queue(sum(each.num_waiting for each in servers))


async def _listen(server: Server, silence_timeout_s: float) -> None:
    """Hang up on a server of which nothing is heard for `rollout.silence_timeout_s`: it loses its requests."""
    now = asyncio.get_running_loop().time
    since = now()
    while True:
        await asyncio.sleep(POLL_S)
        left_s = max(since, server.client.replied_at) + silence_timeout_s - now()
        is_heard = server.owes_replies and await _answers(server, max(left_s, POLL_S))
        if is_heard or not server.owes_replies:
            since = now()
        elif now() - max(since, server.client.replied_at) > silence_timeout_s:
            server.client.hang_up()


async def _answers(server: Server, patience_s: float) -> bool:
    """It says within so long that it is healthy; where its link is down nobody says that it does not."""
    try:
        async with asyncio.timeout(patience_s):
            return await server.client.is_healthy()
    except TimeoutError:
        return False
