"""Runs torchrun in a process that its ranks know by number: `python -m egrc_mega.launch.agent` and its arguments."""

import os

from torch.distributed.run import main as torchrun

from egrc_mega.parent import LAUNCHER


def main() -> None:
    """Start the ranks of this node and wait for them."""
    os.environ[LAUNCHER] = str(os.getpid())
    torchrun()


if __name__ == "__main__":
    main()
