"""The child process in which a model folder's chat template is rendered: `python -m egrc_mega.data.template_child`.

A template is a program from elsewhere. It sees messages and special tokens only, in Jinja's sandbox, and what it says
of the day and of chance is the same each time. The kernel ends a rendering that takes too long, whatever it is in.

The first line on stdin is the template, each further one a chat; each is answered by a line on stdout. All are JSON.
The environment is that of transformers' `apply_chat_template`, with the date fixed.
"""

import json
import math
import random
import resource
import signal
import sys
from datetime import datetime
from typing import Any, NoReturn, TextIO

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

CPU_LIMIT_S = 1
"""Of a rendering, rounded up to a whole second of the process: it takes a millisecond."""
MEMORY_LIMIT_BYTES = 2**30
MAX_CHARACTERS = 10**7


class _Generation(Extension):
    """`{% generation %}` marks the assistant's words for training on chats; they are rendered as they are."""

    tags = frozenset({"generation"})  # type: ignore[assignment]

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def compiled(text: str) -> Template:
    """The template, in the sandbox.

    Raises:
        TemplateError: it is not in Jinja's language.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    return environment.from_string(text)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """JSON that is not escaped for HTML, as transformers has it."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def rendered(template: Template, now: datetime, variables: dict[str, Any]) -> str:
    """The text of a chat, always the same for the same arguments.

    Raises:
        Exception: whatever the template does wrong.
    """
    random.seed(0)
    values = {"tools": None, "documents": None, "strftime_now": now.strftime}
    text = template.render(values | variables)
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"it renders {len(text)} characters")
    return text


def serve(requests: TextIO, replies: TextIO) -> None:
    """Answer until the parent closes the pipe."""
    try:
        template = compiled(json.loads(requests.readline()))
    except Exception as error:
        _reply(replies, error=_in_a_line(error))
        return
    _reply(replies, text="")
    for line in requests:
        limit_cpu_time()
        asked = json.loads(line)
        try:
            text = rendered(template, datetime.fromisoformat(asked["now"]), asked["variables"])
        except Exception as error:
            _reply(replies, error=_in_a_line(error))
        else:
            _reply(replies, text=text)


def _reply(replies: TextIO, **fields: str) -> None:
    print(json.dumps(fields), file=replies, flush=True)


def _in_a_line(error: Exception) -> str:
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])[:300]


def limit_cpu_time() -> None:
    """Let the kernel end this process in the midst of whatever it does."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _lower_limit(resource.RLIMIT_CPU, math.ceil(usage.ru_utime + usage.ru_stime) + CPU_LIMIT_S)


def _lower_limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def main() -> None:
    """Bound memory and time, leave Ctrl-C to the parent, and serve."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _lower_limit(resource.RLIMIT_AS, MEMORY_LIMIT_BYTES)
    limit_cpu_time()
    serve(sys.stdin, sys.stdout)


if __name__ == "__main__":
    main()
