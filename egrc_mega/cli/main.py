"""`egrc`: assembles the subcommands and turns errors into one line and an exit code."""

import locale
import os
import sys

import typer

from egrc_mega import __version__
from egrc_mega.cli import (
    bench,
    config,
    convert,
    credit,
    data,
    diagnose,
    doctor,
    evaluate,
    export,
    grade,
    init,
    miniature,
    plan,
    publish,
    report,
    rollouts,
    serve,
    soak,
    stages,
    status,
    study,
    top,
    trace,
    track,
    train,
    watch,
)
from egrc_mega.errors import EgrcError, Stopped, storage_error
from egrc_mega.observe.streams import show_text_plain

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

app = typer.Typer(
    name="egrc",
    help="Make reasoning models think shorter without losing accuracy: Entropy-Guided Reasoning Compression.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)
app.command("init")(init.init)
app.command("train")(train.train)
app.command("grade")(grade.grade)
app.command("plan")(plan.plan)
app.command("report")(report.report)
app.command("watch")(watch.watch)
app.command("top")(top.top)
app.command("trace")(trace.trace)
app.command("status")(status.status)
app.command("stop")(status.stop)
app.command("publish")(publish.publish)
app.command("export")(export.export)
app.command("track")(track.track)
app.command("rollouts")(rollouts.rollouts)
app.command("diagnose")(diagnose.diagnose)
app.command("credit")(credit.credit)
app.command("study")(study.study)
app.command("doctor")(doctor.doctor)
app.command("soak")(soak.soak)
app.add_typer(evaluate.app, name="eval")
app.add_typer(convert.app, name="convert")
app.add_typer(miniature.app, name="miniature")
app.add_typer(config.app, name="config")
app.add_typer(data.app, name="data")
app.add_typer(bench.app, name="bench")
app.add_typer(serve.app, name="serve")
app.add_typer(stages.app, name="stages")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"egrc_mega {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None:
    """Options of `egrc` itself."""


def _end(error: EgrcError) -> None:
    word = "" if error.exit_code == Stopped.exit_code else "error: "
    for line in str(error).splitlines():
        print(f"egrc: {word}{line}", file=sys.stderr)
    sys.exit(error.exit_code)


def _require_utf8() -> None:
    """Begin again in Python's UTF-8 mode where the locale has another encoding: torch cannot read its own files in it.

    Python does so itself in the locales C and POSIX, unless PYTHONUTF8 forbids it.
    """
    if locale.getpreferredencoding(False).lower() not in ("utf-8", "utf8"):
        os.environ["PYTHONUTF8"] = "1"  # of whatever is started from here as well
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def main() -> None:
    """The console's entry point: an `EgrcError` becomes one line and its exit code."""
    _require_utf8()
    # measured on small machines: one thread a process is faster than two; before torch is imported
    if (os.cpu_count() or 1) <= 4:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    show_text_plain()
    try:
        app()
    except EgrcError as error:
        _end(error)
    except (ConnectionError, TimeoutError):
        raise
    except OSError as error:
        _end(storage_error(error))
    except SystemExit as end:
        # Ctrl-C in a command, which typer has made an exit code of
        if end.code == INTERRUPTED:
            print("egrc: stopped", file=sys.stderr)
        raise
    except KeyboardInterrupt:
        print("egrc: stopped", file=sys.stderr)
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
