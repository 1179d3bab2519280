"""A model folder's chat template: rendered in a child process that may be ended, and proved before anything starts."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time as clock
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from egrc_mega.data.template_child import CPU_LIMIT_S
from egrc_mega.errors import ModelError

DEADLINE_S = 120.0
"""For an answer of the child: far beyond its limit on CPU time, so that it is met on a busy machine too."""
PROBE = "Find $x$ with\n\\frac{x}{2} < {{ 3 }} & 'y' > 0."
"""A user's text with what a template might change: a line end, Jinja's own braces, what HTML escapes."""
NEEDED = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "HOME", "TMPDIR", "VIRTUAL_ENV")
"""Variables of this process that the child gets, beside Python's own."""
BEGIN_OF_THINKING, END_OF_THINKING = "<think>", "</think>"
Thinking = Literal["open", "closed", "absent"]


@dataclass(frozen=True, slots=True)
class Proof:
    """What the probe has found."""

    generation_prompt: str
    """What stands after the user's text."""
    thinking: Thinking
    """Whether the generation prompt leaves a think part open, closes it, or says nothing of one."""
    prints_date: bool
    """Whether the text depends on the day."""

    def line(self, today: date) -> str:
        """The same in words, to follow "the chat template"."""
        thinking = {
            "open": "opens the think part",
            "closed": "closes the think part, so responses are answers only",
            "absent": "says nothing of thinking",
        }[self.thinking]
        dated = f"; it prints the date and is told {today.isoformat()} (data.template_date)" if self.prints_date else ""
        return f"{thinking}{dated}"


class ChatTemplate:
    """The template of a tokenizer, proved. May be used from any thread; the child ends with this object."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, today: date) -> None:
        """Start the child and probe the template.

        Raises:
            ModelError: it cannot be rendered, has no generation prompt, or leaves out what the user says.
        """
        folder = Path(tokenizer.name_or_path)
        own_file = folder / "chat_template.jinja"
        self.name = str(own_file if own_file.exists() else folder / "tokenizer_config.json")
        self.today = today
        self._variables: dict[str, Any] = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
        self._one_at_a_time = threading.Lock()
        self._process = _start()
        weakref.finalize(self, _end, self._process)
        self._exchange(_text(tokenizer.chat_template, self.name))
        self.proof = self._proved()

    def render(self, user: str, system: str | None = None) -> str:
        """The prompt of one user message, with the generation prompt.

        Raises:
            ModelError: the template fails, or takes too long.
        """
        return self._rendered(user, system, self.today, add_generation_prompt=True)

    def _rendered(self, user: str, system: str | None, today: date, *, add_generation_prompt: bool) -> str:
        messages = [{"role": "user", "content": user}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": system})
        chat = {"messages": messages, "add_generation_prompt": add_generation_prompt}
        noon = datetime.combine(today, time(12)).isoformat()
        return self._exchange({"now": noon, "variables": self._variables | chat})

    def _exchange(self, request: Any) -> str:
        """Send a line, return the text that comes back."""
        with self._one_at_a_time:
            reply = _exchanged(self._process, json.dumps(request))
        if "error" in reply:
            raise self._failure(f"fails: {reply['error']}")
        return reply["text"]

    def _failure(self, reason: str) -> ModelError:
        return ModelError(f"model.path: the chat template {self.name} {reason}; mend the template")

    def _proved(self) -> Proof:
        """Render a text that can be found again, with and without what a prompt needs."""
        prompt = self.render(PROBE)
        if PROBE not in prompt:
            raise self._failure(f"leaves out or changes what the user says: of {PROBE!r} it makes {prompt!r:.200}")
        without = self._rendered(PROBE, None, self.today, add_generation_prompt=False)
        if prompt == without:
            raise self._failure(
                "has no generation prompt: it renders the same text with add_generation_prompt and without, so a "
                "response would go on with the user's words"
            )
        later = self._rendered(PROBE, None, self.today + timedelta(days=403), add_generation_prompt=True)
        tail = prompt.rpartition(PROBE)[2]
        return Proof(tail, thinking_at_end(tail), prints_date=later != prompt)


def thinking_at_end(text: str) -> Thinking:
    """Whether a think part is open at the end of a prompt, was closed in it, or none has begun."""
    begin, end = text.rfind(BEGIN_OF_THINKING), text.rfind(END_OF_THINKING)
    if begin > end:
        return "open"
    return "absent" if end < 0 else "closed"


def _text(template: Any, name: str) -> str:
    """The template itself, where a folder has several the one called default."""
    if not isinstance(template, Mapping):
        return str(template)
    if "default" not in template:
        raise ModelError(
            f"model.path: {name} has the chat templates {sorted(template)} and none called default; call one so"
        )
    return str(template["default"])


def _start() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-m", "egrc_mega.data.template_child"]
    # it knows no key that somebody's template could find
    needed = {name: value for name, value in os.environ.items() if name in NEEDED or name.startswith("PYTHON")}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=needed)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe:
            with contextlib.suppress(OSError):
                pipe.close()
    process.wait(DEADLINE_S)


def _exchanged(process: subprocess.Popen[bytes], request: str) -> dict[str, str]:
    """The child's answer, or as its error how it ended."""
    assert process.stdin is not None and process.stdout is not None
    deadline = clock.monotonic() + DEADLINE_S
    reply = b""
    with contextlib.suppress(OSError):  # a child that has ended is noticed when its answer is read
        process.stdin.write(request.encode() + b"\n")
        process.stdin.flush()
    while not reply.endswith(b"\n"):
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - clock.monotonic()))
        part = os.read(process.stdout.fileno(), 65536) if ready else b""
        if not part:
            process.kill()
            return {"error": _ending(process.wait(DEADLINE_S), bool(ready))}
        reply += part
    answer: dict[str, str] = json.loads(reply)
    return answer


def _ending(exit_code: int, has_closed: bool) -> str:
    if not has_closed:
        return f"no answer for {DEADLINE_S:g} s"
    if exit_code == -signal.SIGXCPU:
        return f"it takes more than {CPU_LIMIT_S} s of CPU time"
    return f"its process ended with {exit_code}"
