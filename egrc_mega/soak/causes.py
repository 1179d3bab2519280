"""Law 3: what must have been said of the faults that have struck a round."""

from collections.abc import Iterable, Mapping

from egrc_mega.soak.schedule import Fault

FENCED = r"^ *server \d is fenced: "
CAUSES = {
    "kill rank": r"^egrc: error: rank \d+ \(process \d+ of this node\) was killed by SIGKILL;",
    "stop rank": r"^egrc: the run hangs: ",
    "kill launcher": r"^egrc: torchrun was killed by signal 9$",
    "kill command": r"^egrc: the run has died \(signal 9 ",
    "flip byte": r"^checkpoint .* is passed over: .* differs from the manifest",
    "full disk": r"No space left on device|Input/output error",
    "kill server": FENCED,
    "stop server": FENCED,
    "garbage": FENCED,
    "lost links": FENCED,
}
"""By kind; pauses, and the end of the supervisor itself, are silent."""
DEADLY = ("kill rank", "kill launcher", "kill command", "kill supervisor", "flip byte", "terminate")
"""Kinds that end the attempt under way, whatever else happens to it."""


def causes_to_be_named(times: Mapping[Fault, float], beginnings: Iterable[float], *, goes_on: bool) -> list[str]:
    """Regular expressions, each of which must match within a line of what was said.

    A stopped rank is a hang only to a run that lives until the limit of a hang: where another fault has ended the same
    attempt, nobody was left to report it.

    Args:
        times: when each fault has struck.
        beginnings: when the run's attempts have begun, by the same clock.
        goes_on: whether the run goes on when a checkpoint cannot be written.
    """
    began = sorted(beginnings)
    deadly = DEADLY if goes_on else (*DEADLY, "full disk")

    def attempt(fault: Fault) -> int:
        return sum(beginning <= times[fault] for beginning in began)

    ended = {attempt(fault) for fault in times if fault.kind in deadly}
    named = [fault for fault in times if fault.kind != "stop rank" or attempt(fault) not in ended]
    return sorted({CAUSES[fault.kind] for fault in named if fault.kind in CAUSES})
