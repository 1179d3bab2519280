"""Which variables are secret is told by their names, and by passwords in URLs."""

import pytest

from egrc_mega.child_environment import secrets, without_secrets

SECRET = {
    "WANDB_API_KEY": "x",
    "HF_TOKEN": "x",
    "AWS_SECRET_ACCESS_KEY": "x",
    "AWS_ACCESS_KEY_ID": "x",
    "MLFLOW_TRACKING_PASSWORD": "x",
    "SSH_AUTH_SOCK": "/tmp/agent",
    "EGRC_API_KEY": "x",
    "https_proxy": "http://user:word@proxy:3128",
    "PIP_INDEX_URL": "https://token@index.example/simple",
}
PLAIN = {
    "TOKENIZERS_PARALLELISM": "false",
    "SGLANG_CLIP_MAX_NEW_TOKENS_ESTIMATION": "4096",
    "NCCL_IB_PKEY": "0",
    "http_proxy": "http://proxy:3128",
    "MAIL": "user@example.org",
    "PYTHONPATH": "/a:/b",
}


def test_secrets_are_found_by_their_names_and_by_passwords_in_urls(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (SECRET | PLAIN).items():
        monkeypatch.setenv(name, value)
    assert secrets().items() >= SECRET.items() and not secrets().keys() & PLAIN.keys()
    left = without_secrets(keep=["EGRC_API_KEY", "EGRC_ADMIN_API_KEY"])
    assert left.keys() & SECRET.keys() == {"EGRC_API_KEY"} and left.items() >= PLAIN.items()
    assert "EGRC_ADMIN_API_KEY" not in left
