"""Variables of this process that are secret, and what a child is given: those that it has no use for stay here."""

import os
import re
from collections.abc import Collection

NAME = re.compile(r"(?:^|_)(?:TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?|KEY|AUTH)(?:_|$)", re.IGNORECASE)
"""WANDB_API_KEY, HF_TOKEN, AWS_SECRET_ACCESS_KEY, SSH_AUTH_SOCK, EGRC_API_KEY; but not TOKENIZERS_PARALLELISM."""
PASSWORD_IN_URL = re.compile(r"://[^/@\s]*@")
"""As in the address of a proxy, http://user:password@host."""


def secrets() -> dict[str, str]:
    """The variables that are secret by their name, or carry a password in a URL."""
    return {name: value for name, value in os.environ.items() if NAME.search(name) or PASSWORD_IN_URL.search(value)}


def without_secrets(keep: Collection[str] = ()) -> dict[str, str]:
    """All other variables, and those of the secret ones whose names are given."""
    hidden = secrets().keys() - set(keep)
    return {name: value for name, value in os.environ.items() if name not in hidden}
