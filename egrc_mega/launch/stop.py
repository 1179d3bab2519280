"""`egrc stop RUN`: asks a run to end after the step under way, by a file in its folder; no process is sent anything."""

import getpass
import socket
from contextlib import suppress
from pathlib import Path

from egrc_mega.errors import RunError
from egrc_mega.launch.status import RunStatus, last_holder, look
from egrc_mega.run_folder import STOP, require_no_links_out


def stop(run: Path) -> str:
    """Ask, and say what follows.

    Raises:
        RunError: the folder holds no run, one that is over, or a link out of it.
    """
    require_no_links_out(run)
    status = look(run)
    if status.state != "running" and not _may_go_on(run, status):
        why = f" ({status.reason})" if status.reason else ""
        raise RunError(f"{run} is not running: it is {status.state} after step {status.step}{why}; nothing is to stop")
    _ask(run)
    if status.state == "running":
        return (
            f"{run} ends after the step under way ({status.step + 1}), which is committed; egrc status {run} tells when"
        )
    return (
        f"nobody holds {run} now (last: {status.holder}); if it goes on there, or its supervisor is about to start it "
        f"again, it ends after its next step at the latest"
    )


def _may_go_on(run: Path, status: RunStatus) -> bool:
    """A supervisor has said that it starts it again; or it is on another machine, whose locks are not seen from here
    on every file system."""
    last = last_holder(run)
    is_elsewhere = last is not None and last.host != socket.gethostname()
    return status.state == "crashed" and (status.event == "restart" or is_elsewhere)


def _ask(run: Path) -> None:
    who = "somebody"
    with suppress(OSError, KeyError):  # a user that no machine has a name for
        who = getpass.getuser()
    (run / STOP).write_text(f"asked by {who} on {socket.gethostname()}\n")
