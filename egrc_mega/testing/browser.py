"""A headless Chromium that tests drive by its DevTools protocol: what a page asked for, said and shows.

One start serves many pages. Where there is no Chromium, `find_chromium` says None, and tests say that they are skipped.
"""

import asyncio
import base64
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp

from egrc_mega.parent import die_with_parent

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
TIMEOUT_S = 120.0
"""Of every wait: a page that is not there by then is broken, however busy the machine is."""
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)
Result = TypeVar("Result")


def find_chromium() -> str | None:
    """The program, or None where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One Chromium with one tab. Use as a context manager."""

    def __init__(self, program: str) -> None:
        self.program = program
        self.events: list[dict[str, Any]] = []
        """What the tab has told, since the page was opened."""
        self._count = 0

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="egrc-chromium-", ignore_cleanup_errors=True)
        command = [self.program, *FLAGS, f"--user-data-dir={self._folder.name}", "about:blank"]
        variables = os.environ | {"HOME": self._folder.name}
        self._process = subprocess.Popen(
            command,
            env=variables,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=partial(die_with_parent, os.getpid()),
        )
        self._loop = asyncio.new_event_loop()
        try:
            self._await(self._connect())
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.call(f"{domain}.enable")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._await(self._session.close())
        self.close()

    def close(self) -> None:
        """End it with all its processes."""
        os.killpg(self._process.pid, 9)
        self._process.wait()
        self._loop.close()
        self._folder.cleanup()

    async def _connect(self) -> None:
        port = await self._port()
        self._session = aiohttp.ClientSession()
        async with self._session.get(f"http://127.0.0.1:{port}/json/list") as reply:
            targets = await reply.json()
        url = next(target["webSocketDebuggerUrl"] for target in targets if target["type"] == "page")
        self._socket = await self._session.ws_connect(url, max_msg_size=2**26)

    async def _port(self) -> int:
        path, deadline = Path(self._folder.name) / "DevToolsActivePort", time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            if path.exists() and (text := path.read_text()).count("\n"):
                return int(text.splitlines()[0])
            assert self._process.poll() is None, f"{self.program} ended with {self._process.returncode}"
            await asyncio.sleep(0.05)
        raise TimeoutError(f"{self.program} has not opened its port in {TIMEOUT_S} s")

    def _await(self, what: Coroutine[Any, Any, Result]) -> Result:
        return self._loop.run_until_complete(asyncio.wait_for(what, TIMEOUT_S))

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol and its result; events that come meanwhile are kept."""
        return self._await(self._call(method, parameters))

    async def _call(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        self._count += 1
        number = self._count
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            message = await self._socket.receive_json()
            if message.get("id") == number:
                assert "error" not in message, f"{method}: {message['error']}"
                return dict(message["result"])
            self.events.append(message)

    def open(self, url: str) -> None:
        """Go to a page and wait until it is drawn."""
        self.call("Page.navigate", url="about:blank")
        self.events = []
        self.call("Page.navigate", url=url)
        self.wait("document.documentElement?.dataset.interactiveMs !== undefined")

    def wait(self, condition: str) -> None:
        """Wait until an expression is true in the page."""
        deadline = time.monotonic() + TIMEOUT_S
        while not self.evaluate(f"Boolean({condition})"):
            assert time.monotonic() < deadline, (
                f"the page has not come to {condition} in {TIMEOUT_S} s: {self.troubles()}"
            )
            time.sleep(0.05)

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key: str) -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            text = {"Enter": {"text": "\r"}}.get(key, {}) if kind == "keyDown" else {}
            code = {"Enter": 13, "Tab": 9, "ArrowDown": 40, "ArrowRight": 39}.get(key, 0)
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def look(self, width: int, height: int = 900, *, dark: bool = False) -> None:
        """Be a screen of this size, light or dark; narrow ones are phones."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """A PNG of what is seen, or of the whole page."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))

    def troubles(self) -> list[str]:
        """What the console has to say: errors, warnings, exceptions, refusals of the page's policy."""
        kinds = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [str(event["params"])[:500] for event in self.events if event.get("method") in kinds]

    def requests(self) -> list[str]:
        """Addresses that the page asked for, itself included."""
        sent = [event for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]
