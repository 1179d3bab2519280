"""The servers' two keys. They live in the environment only: not in configurations, URLs, command lines or logs."""

import hmac
import ipaddress
import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit

KEY_VARIABLE, ADMIN_KEY_VARIABLE = "EGRC_API_KEY", "EGRC_ADMIN_API_KEY"
OPEN_PATHS = ("/health", "/ready", "/metrics")
NORMAL_PATHS = ("/generate", "/model_info", "/server_info", "/v1/loads")
"""What the first key opens; everything else that we call is for the second where there is one (sglang 0.5.23,
srt/utils/auth.py and the levels in srt/entrypoints/http_server.py)."""


@dataclass(frozen=True, slots=True)
class Keys:
    """None: there is no such key."""

    api: str | None = field(default=None, repr=False)
    admin: str | None = field(default=None, repr=False)

    @classmethod
    def from_environment(cls) -> "Keys":
        """The keys in EGRC_API_KEY and EGRC_ADMIN_API_KEY."""
        return cls(os.environ.get(KEY_VARIABLE) or None, os.environ.get(ADMIN_KEY_VARIABLE) or None)

    def for_path(self, path: str) -> str | None:
        """The key that a path asks for; None: it is open."""
        if path.startswith(OPEN_PATHS):
            return None
        return self.api if path in NORMAL_PATHS else self.admin or self.api

    def headers(self, path: str) -> dict[str, str]:
        """The headers that a request to `path` needs."""
        key = self.for_path(path)
        return {"Authorization": f"Bearer {key}"} if key else {}

    def admits(self, path: str, authorization: str) -> bool:
        """Whether a request may pass; compares in constant time."""
        key = self.for_path(path)
        # bytes that are no UTF-8 arrive as surrogates
        given = authorization.encode(errors="surrogateescape")
        return key is None or hmac.compare_digest(given, f"Bearer {key}".encode())

    def redact(self, text: str) -> str:
        """`text` without the keys."""
        for key in (self.api, self.admin):
            text = text.replace(key, "[key]") if key else text
        return text


def is_loopback(host: str) -> bool:
    """True for localhost, 127.0.0.0/8 and ::1."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def url_problem(url: str, keys: Keys) -> str | None:
    """Why `url` must not be used, or None."""
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        shown = repr(url) if "@" not in url else "one of them"
        return f"{shown} is not a base URL like http://127.0.0.1:30000"
    if parts.username or parts.password or parts.query:
        return f"a URL for {parts.hostname} carries more than an address; keys belong into {KEY_VARIABLE}"
    if not is_loopback(parts.hostname) and not keys.api:
        return f"{url} is not on this machine, so its servers need a key; give it in {KEY_VARIABLE}"
    return None
