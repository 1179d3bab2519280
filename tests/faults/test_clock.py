"""The wall clock may jump by years, back and forth: it is written down, and nothing waits by it."""

import ast
from pathlib import Path

STAMPS = {"observe/spans.py", "observe/events.py", "observe/run_log.py"}
"""Who reads the wall clock to write it down."""
READS = {("time", "time"), ("time", "time_ns"), ("datetime", "now"), ("datetime", "utcnow"), ("date", "today")}


def readers(root: Path) -> set[str]:
    """Files of the product that read the wall clock."""
    found = set()
    for file in sorted((root / "egrc_mega").rglob("*.py")):
        name = file.relative_to(root / "egrc_mega").as_posix()
        for node in () if name.startswith("testing/") else ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = node.func.value
                called = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
                found |= {name} if (called, node.func.attr) in READS else set()
    return found


def test_only_what_is_written_down_is_read_from_the_wall_clock(root: Path) -> None:
    days = {"data/tokenizer.py", "data/template.py", "data/render.py"}  # a template may be told the date
    shown_only = {"report/build.py", "report/live.py", "launch/status.py", "training/live.py"}
    assert STAMPS <= readers(root) <= STAMPS | days | shown_only
