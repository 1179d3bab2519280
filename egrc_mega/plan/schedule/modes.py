"""The three modes of `rollout.mode`, by the rules of their coordinators, without any of their code.

Each collects whole groups for a step, trains, and hands out weights; what differs is when groups are begun and whether
the trainer waits for the servers to load.
"""

from collections import Counter
from dataclasses import dataclass, field
from functools import partial

from egrc_mega.plan.schedule.server import Job, LoadedServer, Seconds
from egrc_mega.plan.schedule.servers import Servers
from egrc_mega.plan.schedule.setting import Outcome, Setting, Step, Window


@dataclass(slots=True, eq=False)
class Flight:
    """A group of responses from its sending to its training."""

    place: int
    version: int
    """That every server had when it was sent; once it is whole, of its oldest token."""
    home: int
    """The server that has its prompt."""
    num_open: int
    jobs: list[Job] = field(default_factory=list)

    @property
    def is_ready(self) -> bool:
        """Every response is there."""
        return self.num_open == 0


class Coordinator:
    """Sends groups, takes steps, keeps the account. Subclasses say when groups are begun."""

    def __init__(self, setting: Setting, window: Window) -> None:
        self.setting, self.window = setting, window
        self.servers = Servers(setting.law, setting.num_servers, self._note)
        self.open: dict[int, Flight] = {}
        """Groups that were sent and not trained, by place."""
        self.assigned = [0] * setting.num_servers
        self.version = 0
        """Of the weights that every server has."""
        self.num_sent = 0
        self.num_unready = 0
        """Groups that were sent and are not whole."""
        self.steps: list[Step] = []
        """Those that are done."""

    def run(self) -> Outcome:
        """Take the steps; what those took that count."""
        for number in range(self.window.end):
            if number == self.window.warm:
                begun, before = self.servers.now, self._account()
            self._take_step(number)
        seconds = self.servers.now - begun
        return Outcome(self.steps[self.window.warm :], seconds, self._account() - before)

    def _account(self) -> Seconds:
        self.servers.settle()
        return sum((server.seconds for server in self.servers.all), Seconds())

    def _take_step(self, number: int) -> None:
        before = self.servers.now
        batch = self._collect(number)
        waited = self.servers.now - before
        jobs = [job for flight in batch for job in flight.jobs]
        num_tokens = sum(job.length for job in jobs)
        train_s = self.setting.train_s(num_tokens, len(jobs))
        self._begin_next(number)
        self.servers.run_to(self.servers.now + train_s)
        self._publish(number + 1)
        lags: Counter[int] = Counter()
        for version, start, end in (span for job in jobs for span in job.spans):
            lags[number - version] += end - start
        oldest = Counter(number - flight.version for flight in batch)
        places = tuple(flight.place for flight in batch)
        self.steps.append(Step(self.servers.now, waited, train_s, num_tokens, places, lags, oldest))

    def _collect(self, number: int) -> list[Flight]:
        raise NotImplementedError

    def _begin_next(self, number: int) -> None:
        """While step `number` trains."""

    def _publish(self, version: int) -> None:
        """Write the weights and wait until every server has them."""
        self.servers.run_to(self.servers.now + self.setting.write_s)
        self._begin_load()
        self.servers.run_to(self.servers.now + self.setting.load_s)
        self._end_load(version)

    def _begin_load(self) -> None:
        self.servers.change(LoadedServer.pause)

    def _end_load(self, version: int) -> None:
        def go_on(server: LoadedServer) -> None:
            server.load(version)
            server.resume(recompute=self.setting.recomputes)

        self.version = version
        self.servers.change(go_on)

    def _send(self, count: int) -> None:
        """The next groups, each to the server with the fewest requests."""
        setting = self.setting
        sent: dict[int, list[Job]] = {}
        for place in range(self.num_sent, self.num_sent + count):
            home = min(range(setting.num_servers), key=self.assigned.__getitem__)
            self.assigned[home] += setting.n
            flight = Flight(place, self.version, home, setting.n)
            self.open[place] = flight
            self.num_unready += 1
            lengths = setting.responses.of(place, setting.n)
            flight.jobs = [Job(flight, int(length), setting.prompt_tokens) for length in lengths]
            sent.setdefault(home, []).extend(flight.jobs)
        self.num_sent += count
        for home, jobs in sent.items():
            self.servers.add(home, jobs)

    def _note(self, job: Job) -> None:
        flight = job.key
        assert isinstance(flight, Flight)
        flight.num_open -= 1
        self.assigned[flight.home] -= 1
        if flight.is_ready:
            self.num_unready -= 1
            flight.version = min(each.spans[0][0] for each in flight.jobs)

    def _take(self, flights: list[Flight]) -> list[Flight]:
        for flight in flights:
            del self.open[flight.place]
        return flights

    def _whole_batch(self) -> list[Flight]:
        """Wait for every group that was sent."""
        self.servers.run(lambda: self.num_unready == 0)
        return self._take(list(self.open.values()))


class Sync(Coordinator):
    """A step samples with its own weights, then trains."""

    def _collect(self, number: int) -> list[Flight]:
        self._send(self.setting.prompts_per_step)
        return self._whole_batch()


class Ahead(Coordinator):
    """The next step's groups are sampled while a step trains."""

    def _collect(self, number: int) -> list[Flight]:
        if number == 0:
            self._send(self.setting.prompts_per_step)
        return self._whole_batch()

    def _begin_next(self, number: int) -> None:
        if number + 1 < self.window.num_steps:
            self._send(self.setting.prompts_per_step)


class Async(Coordinator):
    """Servers sample all the time; a step takes whole groups, the oldest first, and waits for those that are due."""

    def __init__(self, setting: Setting, window: Window) -> None:
        super().__init__(setting, window)
        self.is_loading = False

    def _collect(self, number: int) -> list[Flight]:
        self._admit()
        while (batch := self._batch(number)) is None:
            self.servers.run(partial(self._has_changed, self.num_unready))
        return self._take(batch)

    def _has_changed(self, num_unready: int) -> bool:
        return self.num_unready != num_unready

    def _admit(self) -> None:
        """As many as can be trained before they are too old."""
        setting = self.setting
        most = (self.version + setting.max_staleness + 1) * setting.prompts_per_step
        self._send(min(most, self.window.num_steps * setting.prompts_per_step) - self.num_sent)

    def _batch(self, number: int) -> list[Flight] | None:
        """The step's groups; None while one is missing.

        A group must be trained before its weights are too old. Ready groups may overtake as long as those that they
        leave behind, with what follows, still find their places in time.
        """
        setting = self.setting
        wanted, flights = setting.prompts_per_step, self.open.values()
        batch = [flight for flight in flights if flight.is_ready]
        batch = sorted(batch, key=lambda flight: (flight.version, flight.place))[:wanted]
        if len(batch) < wanted:
            return None
        taken, waiting = (Counter(flight.version for flight in some) for some in (batch, flights))
        left = 0
        for version in sorted(waiting):
            left += waiting[version] - taken[version]
            if left > (version + setting.max_staleness - number) * wanted:
                return None
        return batch

    def _publish(self, version: int) -> None:
        """Once the servers have the last ones, write the weights; they load them behind the next step."""
        self.servers.run(lambda: not self.is_loading)
        self.servers.run_to(self.servers.now + self.setting.write_s)
        self.is_loading = True
        self._begin_load()

        def loaded() -> None:
            self.is_loading = False
            self._end_load(version)
            self._admit()

        self.servers.at(self.servers.now + self.setting.load_s, loaded)


MODES: dict[str, type[Coordinator]] = {"sync": Sync, "ahead": Ahead, "async": Async}
