"""A group of commands one of which needs no name: `egrc eval MODEL` beside `egrc eval compare RUN...`."""

from typing import Any

from typer.core import TyperGroup

DEFAULT = "measure"
"""The command that is meant where none is named."""


class DefaultCommandGroup(TyperGroup):
    """Takes whatever does not begin with a command's name for arguments of `DEFAULT`, `--help` too."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the name before arguments that have none."""
        if not args or args[0] not in self.commands:
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)
