"""SIGTERM as a wish, in this very process; whole runs that are stopped are in tests/training/test_whole_run.py."""

import os
import signal
import subprocess
import sys
import time

import pytest

from egrc_mega.errors import Stopped
from egrc_mega.stop_signal import StopSignal


def ask() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def wait_for_the_alarm(stop: StopSignal) -> None:
    deadline = time.monotonic() + 60
    while not stop._is_overdue:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_nothing_is_wanted_until_the_signal_comes() -> None:
    with StopSignal(60, answers=True) as stop:
        assert not stop.wanted
        ask()
        assert stop.wanted


def test_within_its_grace_time_work_goes_on() -> None:
    with StopSignal(60, answers=True) as stop:
        ask()
        with stop.may_give_up():
            time.sleep(0.01)
        assert stop.wanted and not stop._is_overdue
        left_s, _ = signal.getitimer(signal.ITIMER_REAL)
        assert 0 < left_s <= 60


def test_what_waits_is_given_up_when_the_grace_time_is_over() -> None:
    given_up = pytest.raises(Stopped, match="given up 0 s after SIGTERM")
    with StopSignal(0, answers=True) as stop, given_up, stop.may_give_up():
        ask()
        time.sleep(60)


def test_what_begins_after_the_grace_time_is_given_up_at_once() -> None:
    with StopSignal(0, answers=True) as stop:
        ask()
        wait_for_the_alarm(stop)
        with pytest.raises(Stopped), stop.may_give_up():
            pytest.fail("it has begun")


def test_what_must_not_be_given_up_is_not() -> None:
    with StopSignal(0, answers=True) as stop:
        with stop.may_give_up():
            pass
        ask()
        wait_for_the_alarm(stop)  # nothing is raised here, where the block is over
        assert stop.wanted and stop._is_overdue and not stop._can_give_up


def test_who_does_not_answer_lets_the_first_signal_pass() -> None:
    with StopSignal(0, answers=False) as stop, stop.may_give_up():
        ask()
        time.sleep(0.05)
        assert stop.wanted


def test_afterwards_nothing_of_it_is_left() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGALRM)
    with StopSignal(0.2, answers=True):
        ask()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGALRM)) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


@pytest.mark.parametrize("answers", [True, False])
def test_a_second_signal_ends_the_process_at_once(answers: bool) -> None:
    code = f"""
import os, signal
from egrc_mega.stop_signal import StopSignal
with StopSignal(60, answers={answers}):
    os.kill(os.getpid(), signal.SIGTERM)
    print("still here", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    print("and still", flush=True)
"""
    ended = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (-signal.SIGTERM, "still here\n")


HANGUP = """
import os, signal, subprocess, sys, time
from egrc_mega.stop_signal import StopSignal, take_hangup_for_sigterm
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # who runs the tests may ignore or block it
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP])
{before}
take_hangup_for_sigterm()
child = subprocess.Popen([sys.executable, "-c", "import sys; print('child', flush=True); sys.stdin.read()"],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
child.stdout.readline()
with StopSignal(60, answers=True) as stop:
    for _ in range(2):  # once by the system, once by the shell
        os.kill(child.pid, signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGHUP)
    while not stop.wanted and not {is_ignored}:
        time.sleep(0.01)
    child.communicate()
    print(stop.wanted, child.returncode)
"""


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("", "True 0\n"),
        ("signal.signal(signal.SIGHUP, signal.SIG_IGN)", "False 0\n"),
        ("signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])", "False 0\n"),
    ],
    ids=["a terminal", "nohup", "below another run's process"],
)
def test_a_closing_terminal_is_one_wish_to_stop_and_nothing_to_children(before: str, said: str) -> None:
    code = HANGUP.format(before=before, is_ignored=bool(before))
    ended = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (0, said), ended.stderr
