"""torchrun, whose ranks know who has started them: `python -m egrc_mega.launch.agent` with torchrun's arguments."""

import os

from torch.distributed.run import main as torchrun

from egrc_mega.parent import LAUNCHER


def main() -> None:
    """Start the ranks of this node and wait for them."""
    os.environ[LAUNCHER] = str(os.getpid())
    torchrun()


if __name__ == "__main__":
    main()
