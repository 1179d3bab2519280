"""Requests in flight through a fleet: more may be added, outcomes come as they finish, what is left can be aborted."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Self

import numpy as np

from egrc_mega.errors import RolloutError
from egrc_mega.faults import armed
from egrc_mega.rollout.dispatch import Dispatcher, Ticket
from egrc_mega.rollout.environment import Environment
from egrc_mega.rollout.errors import RequestRefused
from egrc_mega.rollout.server import Server
from egrc_mega.rollout.state import State
from egrc_mega.rollout.watch import watch
from egrc_mega.types import Completion, RolloutRequest

ABORT_AGAIN_S = 0.5
"""A request that was still on its way when a server was told to abort all needs a second telling."""
ABORT_TIMEOUT_S = 30.0
"""A server that does not end its requests by then is not waited for."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that no server will answer: the data's fault, not the servers'."""

    request: RolloutRequest
    reason: str


Outcome = Completion | Refused


@dataclass(frozen=True, slots=True)
class _Ended:
    """A request that is no longer in flight."""

    request: RolloutRequest
    home: Server
    outcome: Outcome | Exception | None
    """None: it was given up."""


class Stream:
    """Use as a context manager, from one thread: leaving it cancels what is in flight.

    Args:
        loop: the fleet's, in which the requests live.
        silence_timeout_s: a server that owes replies, and of which nothing is heard for so long, loses them.
        vocab_size: of the model, when it is known: an unknown id would end a server.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        loop: asyncio.AbstractEventLoop,
        environment: Environment | None,
        silence_timeout_s: float,
        vocab_size: int | None,
    ) -> None:
        self.dispatcher, self.loop, self.servers = dispatcher, loop, dispatcher.servers
        self.silence_timeout_s, self.vocab_size = silence_timeout_s, vocab_size
        self.num_open = 0
        """Requests without an outcome yet."""
        self._ticket = Ticket(environment)
        self._outcomes: SimpleQueue[_Ended | None] = SimpleQueue()
        """None only wakes up who waits."""
        self._tasks: dict[str, asyncio.Task[None]] = {}
        """By rid."""
        self._given_up: set[str] = set()
        """Rids whose outcomes nobody wants any more."""
        self._homes: dict[str, Server] = {}
        """Of the prompts that have requests in flight."""
        self._num_of: Counter[str] = Counter()
        """Requests in flight, by prompt."""
        self._assigned = dict.fromkeys(self.servers, 0)

    def add(self, requests: Sequence[RolloutRequest], begun: Mapping[str, Completion] | None = None) -> None:
        """Send requests; those in `begun` (by rid) go on where they were aborted.

        Raises:
            RolloutError: a request has an id beyond the vocabulary, or forces all of its tokens.
        """
        for request in requests:
            self._check(request)
        homes = [self._home(request) for request in requests]
        order = list(range(len(requests)))
        if armed("rollout.shuffle_requests"):
            random.shuffle(order)
        self.num_open += len(requests)

        async def start() -> None:
            for i in order:
                request = requests[i]
                work = self._one(request, homes[i], (begun or {}).get(request.rid))
                self._tasks[request.rid] = asyncio.create_task(work)

        self._run(start())

    def cancel(self, rids: Sequence[str]) -> None:
        """Give requests up: their servers end them, as their connections are closed, and `take` never names them."""

        async def give_up() -> None:
            for rid in rids:
                if task := self._tasks.get(rid):
                    self._given_up.add(rid)
                    task.cancel()

        self._run(give_up())

    def wake(self) -> None:
        """Have `take` return, though nothing may have come; from any thread."""
        self._outcomes.put(None)

    def _check(self, request: RolloutRequest) -> None:
        num_forced, cap = len(request.forced_ids), request.sampling.max_new_tokens
        if num_forced >= cap:
            raise RolloutError(
                f"prompt {request.prompt_id}: {num_forced} forced tokens leave none of max_new_tokens = {cap} to be "
                f"sampled; force fewer, or raise the cap"
            )
        if self.vocab_size is None:
            return
        ids = np.concatenate([request.prompt_ids, request.forced_ids])
        unknown = ids[(ids < 0) | (ids >= self.vocab_size)]
        if len(unknown):
            raise RolloutError(
                f"prompt {request.prompt_id}: input id {unknown[0]} is outside the model's vocabulary of "
                f"{self.vocab_size}; the tokenizer is another model's"
            )

    def _home(self, request: RolloutRequest) -> Server:
        """The server that has the prompt's prefix; for a new prompt the one with the fewest requests."""
        home = self._homes.get(request.prompt_id)
        if home is None:
            home = self._homes[request.prompt_id] = min(self._assigned, key=self._assigned.__getitem__)
        self._assigned[home] += 1
        self._num_of[request.prompt_id] += 1
        return home

    def _leave(self, request: RolloutRequest, home: Server) -> None:
        """It is no longer in flight; a prompt that has none left has no home any more."""
        self.num_open -= 1
        self._assigned[home] -= 1
        self._num_of[request.prompt_id] -= 1
        if not self._num_of[request.prompt_id]:
            del self._num_of[request.prompt_id], self._homes[request.prompt_id]

    async def _one(self, request: RolloutRequest, home: Server, begun: Completion | None) -> None:
        outcome: Outcome | Exception
        try:
            outcome = await self.dispatcher.answered(request, self._ticket, home, begun)
        except RequestRefused as error:
            outcome = Refused(request, str(error))
        except asyncio.CancelledError:
            is_given_up = request.rid in self._given_up
            self._end(request, home, None if is_given_up else RolloutError(f"request {request.rid} was cancelled"))
            raise
        except Exception as error:
            outcome = error
        self._end(request, home, outcome)

    def _end(self, request: RolloutRequest, home: Server, outcome: Outcome | Exception | None) -> None:
        del self._tasks[request.rid]
        self._given_up.discard(request.rid)
        self._outcomes.put(_Ended(request, home, outcome))

    def take(self) -> list[Outcome]:
        """Wait for an outcome, or for `wake`; that one, and all others that are there.

        Raises:
            RolloutError: a request was lost too often, or a server did not come back.
        """
        # every request has its deadlines
        found = [self._outcomes.get()]
        try:
            while True:
                found.append(self._outcomes.get_nowait())
        except Empty:
            pass
        ended = [one for one in found if one is not None]
        for one in ended:
            self._leave(one.request, one.home)
        outcomes: list[Outcome] = []
        for one in ended:
            if isinstance(one.outcome, Exception):
                raise one.outcome
            if one.outcome is not None:
                outcomes.append(one.outcome)
        return outcomes

    def abort(self) -> list[Completion]:
        """End what is in flight; what each response has by then, some of them whole.

        Raises:
            RolloutError: as `take`.
        """
        self._ticket.is_aborting = True
        telling = asyncio.run_coroutine_threadsafe(self._tell_all(), self.loop)
        ended: list[Completion] = []
        try:
            while self.num_open:
                ended += [outcome for outcome in self.take() if isinstance(outcome, Completion)]
        finally:
            telling.cancel()
        return ended

    async def _tell_all(self) -> None:
        await asyncio.gather(*(self._tell_to_abort(server) for server in self.servers))

    async def _tell_to_abort(self, server: Server) -> None:
        """Again and again; one that does not listen is left with what it has."""
        now = asyncio.get_running_loop().time
        deadline = now() + ABORT_TIMEOUT_S
        while True:
            if server.state is State.LOADING:  # it hears it afterwards
                deadline = now() + ABORT_TIMEOUT_S
            elif server.is_serving and server.in_flight:
                with contextlib.suppress(RolloutError):
                    await server.client.abort_all()
                if now() > deadline:
                    server.client.hang_up()
            await asyncio.sleep(ABORT_AGAIN_S)

    def __enter__(self) -> Self:
        looks = watch(self.servers, self.dispatcher.stats, self.silence_timeout_s)
        self._watch = asyncio.run_coroutine_threadsafe(looks, self.loop)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._watch.cancel()
        if not self.loop.is_closed():
            self._run(self._cancel())

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    async def _cancel(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def complete(outcomes: Sequence[Outcome]) -> list[Completion]:
    """The completions of outcomes that all have one.

    Raises:
        RolloutError: one was refused.
    """
    for outcome in outcomes:
        if isinstance(outcome, Refused):
            raise RolloutError(outcome.reason)
    return [outcome for outcome in outcomes if isinstance(outcome, Completion)]
