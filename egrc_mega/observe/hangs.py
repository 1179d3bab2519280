"""The report of a hang: when a rank has not moved for longer than it may, all ranks say where they are, in one file.

Each rank has a watch, a thread of its own. The first one that finds its rank overdue makes a folder in RUN/hangs, which
the others' watches look for: each answers with the stacks of all its threads and with what it waits for. A rank that
cannot answer, because it is stopped or holds the interpreter, is looked at from outside: its state, its last note, and
the stacks that `faulthandler` writes when a signal asks for them, which takes no interpreter. Then the run is ended.

A rank that is stopped must run on to write its stacks. So that this completes no step with the others, all ranks are
held before: whoever comes to a next note waits for the report and ends.
"""

import contextlib
import ctypes
import faulthandler
import json
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

import psutil

from egrc_mega.errors import HangError, RelayedError, has_waited_in_vain
from egrc_mega.lock import Holder
from egrc_mega.observe.pulse import PULSE, Note, hold, read_page
from egrc_mega.plain_text import plain
from egrc_mega.relay import report_error, report_relayed

FOLDER = "hangs"
POLL_S = 1.0
PATIENCE_S = 10.0
"""For the answer of a rank that can give one."""
DUMP_S, DUMPED_S = 6.0, 0.25
"""For the stacks of one that cannot; it has written them all when nothing has come for so long."""
REPORT_S = 60.0
"""For a report; who is held waits no longer for it."""
STACKS_SIGNAL = signal.SIGUSR2


@dataclass(frozen=True, slots=True)
class Answer:
    """Of a rank about itself, or of another rank about one that is silent."""

    note: Note
    waited_s: float
    """Without any movement."""
    place: str
    """Where its main thread is, in a few words."""
    stacks: str
    trouble: str = ""
    """Why it has not answered itself."""

    def line(self, rank: int) -> str:
        """What the console shows of it."""
        at = [self.note.phase or "between two phases", f"for {self.waited_s:.0f} s"] if self.note.since else []
        at += [f"awaits {self.note.awaits}"] * bool(self.note.awaits) + [f"in {self.place}"] * bool(self.place)
        return f"rank {rank}: " + "; ".join([", ".join(at)] * bool(at) + [self.trouble] * bool(self.trouble))


def introduction() -> str:
    """How this rank can be found when it is silent; every rank's watch gets those of all."""
    return json.dumps(asdict(Holder.this_process()) | {"page": PULSE.publish()})


def leave(error: HangError) -> NoReturn:
    """End this process, whose main thread is not to be had any more; who has started it ends the others."""
    report_error(error)
    sys.stderr.flush()
    os._exit(HangError.exit_code)


class Stillness:
    """For how long nothing has moved, by one look after the other."""

    def __init__(self, poll_s: float) -> None:
        self.poll_s, self.waited_s = poll_s, 0.0
        self._count, self._then = -1, 0.0

    def look(self, count: int, now: float) -> float:
        """Seconds without a movement; where this process was stopped itself between two looks, that does not count."""
        moved = count != self._count
        self.waited_s = 0.0 if moved else self.waited_s + min(now - self._then, 2 * self.poll_s)
        self._count, self._then = count, now
        return self.waited_s


class HangWatch:
    """Watches this rank. Use as a context manager, in the main thread.

    Args:
        folder: of the run; all ranks see it.
        introductions: of all ranks, in order; the same on each.
        limit_s: how long this rank may be without movement where its note says nothing else.
        field: the setting that has the limit.
        end: what follows upon a report, in the watch's thread.
    """

    def __init__(
        self,
        folder: Path,
        rank: int,
        introductions: Sequence[str],
        limit_s: float,
        field: str,
        end: Callable[[HangError], None] = leave,
    ) -> None:
        self.rank, self.limit_s, self.field, self.end = rank, limit_s, field, end
        self.peers = [json.loads(text) for text in introductions]
        first = self.peers[0]
        # no two attempts at a run have the same, so that nobody answers an earlier one's question
        self.ask = folder / FOLDER / f"{first['started']:.0f}-{first['pid']}"
        """Is there while a hang is reported, which ends all ranks."""
        self.ask_wait = self.ask.with_suffix(".wait")
        """Is there while a wait in vain is reported, whose error goes its way."""
        self.poll_s = min(POLL_S, limit_s / 4)
        self._over = threading.Event()
        self._has_asked = False
        self._thread = threading.Thread(target=self._watch, name="hang watch", daemon=True)

    def __enter__(self) -> Self:
        # written with no help of the interpreter, into the page that others read
        faulthandler.register(STACKS_SIGNAL, file=PULSE.publish(), all_threads=True)
        PULSE.leave = self._leave_with_the_run
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        PULSE.leave = lambda: None
        faulthandler.unregister(STACKS_SIGNAL)

    def _watch(self) -> None:
        stillness, has_answered = Stillness(self.poll_s), False
        while not self._over.wait(self.poll_s):
            waited_s = stillness.look(PULSE.count, time.monotonic())
            question = next((each for each in (self.ask, self.ask_wait) if each.exists()), None)
            if not has_answered and question is not None:
                has_answered = True
                if question == self.ask:
                    PULSE.hold()
                self._write_answer(question, waited_s)
            elif not has_answered and waited_s > (PULSE.note.limit_s or self.limit_s):
                has_answered = self._report(waited_s)

    @contextlib.contextmanager
    def reporting_waits(self) -> Iterator[None]:
        """Within it an error that a limit of time is behind is reported as a hang is, before it goes its way."""
        try:
            yield
        except Exception as error:
            if has_waited_in_vain(error):
                self._report_wait(error)
            raise

    def _report_wait(self, error: Exception) -> None:
        waited_s = time.monotonic() - PULSE.note.since
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
        place = _place([(frame.filename, frame.lineno or 0, frame.name) for frame in reversed(frames)])
        own = own_answer(waited_s)
        trace = plain("".join(traceback.format_exception(error)))
        if self._ask(self.ask_wait):
            own = replace(own, place=place, stacks=trace + own.stacks)
            self._write(f"the run waits in vain: {plain(str(error))}", self.ask_wait, own)

    def _report(self, waited_s: float) -> bool:
        """Ask all ranks, write and say what they answer, and end the run; False when another rank does so already."""
        if not self._ask(self.ask):
            return False
        self._has_asked = True
        PULSE.hold()
        note = PULSE.note  # a rank that is run on for its stacks may move this one, too
        limit = f"{note.field or self.field} = {note.limit_s or self.limit_s:g}"
        head = f"the run hangs: rank {self.rank} has not moved for {waited_s:.0f} s ({limit})"
        self.end(HangError(f"{head}; {self._write(head, self.ask, own_answer(waited_s))}"))
        return True

    def _leave_with_the_run(self) -> None:
        """What the main thread does at its next note while a hang is reported: it takes no further part in the run."""
        if self._has_asked:
            self._thread.join()  # it ends this process
        deadline = time.monotonic() + REPORT_S
        while self.ask.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        report_relayed(RelayedError("the run hangs: another rank has said which one does", HangError.exit_code))
        sys.stderr.flush()
        os._exit(HangError.exit_code)

    def _ask(self, question: Path) -> bool:
        """Have all ranks say where they are; False when another rank does so already."""
        if any(each.exists() for each in (self.ask, self.ask_wait)):
            return False
        try:
            question.mkdir(parents=True)
        except FileExistsError:
            return False
        except OSError as error:
            print(f"egrc: {question}: {error.strerror}; the other ranks are looked at from outside", file=sys.stderr)
        return True

    def _write(self, head: str, question: Path, own: Answer) -> str:
        """The report, on the console and in its file; who is at fault and where all stacks are, in a few words."""
        answers = self._collect(question, own)
        file = self.ask.with_suffix(".txt")
        lines = [answer.line(rank) for rank, answer in enumerate(answers)]
        stacks = [f"== {line}\n{answer.stacks}" for line, answer in zip(lines, answers, strict=True)]
        for line in (head, *lines, f"all stacks: {file}"):
            print(f"egrc: {line}", file=sys.stderr, flush=True)
        try:
            file.write_text("\n".join([head, *lines, "", *stacks]))
        except OSError as error:
            print("\n".join([f"egrc: {file}: {error.strerror}; the stacks:", *stacks]), file=sys.stderr, flush=True)
        shutil.rmtree(question, ignore_errors=True)
        silent = [line for line, answer in zip(lines, answers, strict=True) if answer.trouble]
        return f"{'; '.join(silent or lines)}; all stacks: {file}"

    def _collect(self, question: Path, own: Answer) -> list[Answer]:
        """One answer for each rank: its own, or what can be seen of it."""
        answers: dict[int, Answer] = {self.rank: own}
        deadline = time.monotonic() + PATIENCE_S
        silent = set(range(len(self.peers))) - {self.rank}
        while any(_may_answer(**self.peers[rank]) for rank in silent) and time.monotonic() < deadline:
            time.sleep(min(0.1, self.poll_s))
            answers |= {rank: answer for rank in silent if (answer := self._read_answer(question, rank))}
            silent -= answers.keys()
        for rank in silent if question == self.ask else ():
            hold_peer(**self.peers[rank])
        return [answers[rank] if rank in answers else look_at(**peer) for rank, peer in enumerate(self.peers)]

    def _write_answer(self, question: Path, waited_s: float) -> None:
        file = _file_of(self.rank, question)
        with contextlib.suppress(OSError):
            file.with_suffix(".tmp").write_text(json.dumps(asdict(own_answer(waited_s))))
            file.with_suffix(".tmp").replace(file)

    def _read_answer(self, question: Path, rank: int) -> Answer | None:
        try:
            fields = json.loads(_file_of(rank, question).read_text())
        except (OSError, ValueError):
            return None
        return Answer(**fields | {"note": Note(**fields["note"])})


def _file_of(rank: int, question: Path) -> Path:
    """Where a rank answers."""
    return question / f"rank_{rank:05d}.json"


def own_answer(waited_s: float) -> Answer:
    """Where all threads of this process are, the main thread first."""
    frames = sys._current_frames()
    main = threading.main_thread()
    threads = sorted(threading.enumerate(), key=lambda thread: thread is not main)
    stacks = {thread: traceback.extract_stack(frames[thread.ident]) for thread in threads if thread.ident in frames}
    texts = [f"thread {thread.name}:\n{''.join(stack.format())}" for thread, stack in stacks.items()]
    place = _place([(frame.filename, frame.lineno or 0, frame.name) for frame in reversed(stacks[main])])
    return Answer(PULSE.note, waited_s, place, "".join(texts))


def _may_answer(pid: int, started: float, host: str, page: int) -> bool:
    """False of a process of this machine that will not."""
    if host != Holder.this_process().host:
        return True
    with contextlib.suppress(psutil.Error):
        known = not Holder(pid, started, host).is_known_dead()
        return known and psutil.Process(pid).status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
    return False


def hold_peer(pid: int, started: float, host: str, page: int) -> None:
    """Have a rank of this machine that does not answer go no further, should it run on."""
    if host == Holder.this_process().host and not Holder(pid, started, host).is_known_dead():
        hold(pid, page)


def look_at(pid: int, started: float, host: str, page: int) -> Answer:
    """What can be seen of a rank that does not answer."""
    holder = Holder(pid, started, host)
    if host != Holder.this_process().host:
        return Answer(Note(), 0.0, "", "", f"does not answer; it is {holder}, which cannot be seen from here")
    if holder.is_known_dead():
        return Answer(Note(), 0.0, "", "", f"{holder} is gone")
    try:
        state = psutil.Process(pid).status()
    except psutil.Error:
        state = "gone"
    note, _ = read_page(pid, page) or (Note(), "")
    stacks = _stacks_of(pid, page)
    main_thread = stacks.rpartition("hread 0x")[2]  # the oldest is written last
    waited_s = time.monotonic() - note.since if note.since else 0.0
    trouble = f"does not answer: {holder} is {state}"
    return Answer(note, waited_s, _place(_dumped(main_thread)), stacks, trouble)


def _stacks_of(pid: int, page: int) -> str:
    """Have a process of this machine write its stacks; one that is stopped must run on for it, to a run that ends."""
    if read_page(pid, page) is None:
        return ""  # not the process that we know: the signal would end it
    with contextlib.suppress(OSError):
        _signal_main_thread(pid, STACKS_SIGNAL)
        os.kill(pid, signal.SIGCONT)
    begun = last = time.monotonic()
    stacks = ""
    while (now := time.monotonic()) < begun + DUMP_S and not (stacks and now > last + DUMPED_S):
        time.sleep(0.05)
        found = read_page(pid, page)
        if found is None:
            break
        if found[1] != stacks:
            stacks, last = found[1], time.monotonic()
    return stacks


def _signal_main_thread(pid: int, number: int) -> None:
    """So that the main thread itself writes, before it does anything else: while another one writes it would run on."""
    tgkill = getattr(ctypes.CDLL(None), "tgkill", None)
    if tgkill is None:  # glibc before 2.30
        os.kill(pid, number)
    else:
        tgkill(pid, pid, number)


def _dumped(stack: str) -> list[tuple[str, int, str]]:
    """File, line and function of each frame that `faulthandler` has written, innermost first."""
    frames = []
    for line in stack.splitlines():
        file, _, rest = line.strip().removeprefix('File "').partition('", line ')
        number, _, name = rest.partition(" in ")
        if number.isdigit():
            frames.append((file, int(number), name))
    return frames


def _place(frames: Sequence[tuple[str, int, str]]) -> str:
    """Of frames, innermost first: the innermost function, and who outside of torch has called it."""
    if not frames:
        return ""
    inner = frames[0]
    outer = next((frame for frame in frames if "/torch/" not in frame[0]), inner)
    called = f"{'/'.join(Path(outer[0]).parts[-3:])}:{outer[1]} ({outer[2]})"
    return called if outer is inner else f"{inner[2]}, called at {called}"
