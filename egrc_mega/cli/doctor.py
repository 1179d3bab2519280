"""`egrc doctor`: says what is installed and what is missing."""

import typer


def doctor() -> None:
    """Say what is installed, what is missing, and which backend a run would use."""
    from egrc_mega.launch.doctor import diagnose

    raise typer.Exit(diagnose())
