"""What a server does when more connections come than it may have open files."""

import asyncio
import errno
import logging
import resource
import sys
import time
from typing import Any

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from egrc_mega.open_files import raise_limit
from egrc_mega.plain_text import plain

QUIET_S = 60.0
"""Between two lines about connections that were not accepted; asyncio has one for each try, thousands a second."""
CONTINUE = "100-continue"
OUT_OF_FILES = (errno.EMFILE, errno.ENFILE)


async def bear_a_flood(_app: web.Application) -> None:
    """Take as many files as the system lets us have; say rarely when those are used up. For `on_startup`."""
    raise_limit()
    asyncio.get_running_loop().set_exception_handler(_Complaints())
    logging.getLogger("aiohttp.server").addFilter(say_nonsense_in_a_line)


def refuse_other_expectations(app: web.Application) -> None:
    """Answer 417 to an `Expect` that is not 100-continue.

    The library says the same, but quotes the field, and fails where its bytes are no text.
    """
    resolve = app.router.resolve

    async def checked(request: web.Request) -> Any:
        if (request.headers.get(hdrs.EXPECT) or CONTINUE).lower() != CONTINUE:
            raise web.HTTPExpectationFailed
        return await resolve(request)

    app.router.resolve = checked  # type: ignore[method-assign]


def say_nonsense_in_a_line(record: logging.LogRecord) -> bool:
    """Filter of aiohttp's log: a request that is none, or whose sender has gone, is worth no traceback."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError | web.RequestPayloadError | ConnectionError):
        said = error.message if isinstance(error, HttpProcessingError) else str(error)
        record.exc_info, record.exc_text = None, None
        record.msg, record.args = "%s: %s", (record.getMessage(), " ".join(plain(said).split())[:200])
    return True


class _Complaints:
    """An exception handler of an event loop."""

    def __init__(self) -> None:
        self.said_at = -QUIET_S

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not (isinstance(error, OSError) and error.errno in OUT_OF_FILES):
            loop.default_exception_handler(context)
        elif time.monotonic() - self.said_at >= QUIET_S:
            self.said_at = time.monotonic()
            limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            print(f"egrc server: no file is left of {limit} (ulimit -n): connections wait", file=sys.stderr, flush=True)
