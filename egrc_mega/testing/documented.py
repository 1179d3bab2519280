"""What a page of docs/ names in its tables, so that tests can compare it with what the program does."""

import re
from fnmatch import fnmatchcase


def first_column(page: str, begin: str, end: str) -> set[str]:
    """Names in code in the first column of the tables between two headings; `_p99` goes on from the name before it."""
    names: list[str] = []
    for line in page.partition(begin)[2].partition(end)[0].splitlines():
        for name in re.findall(r"`(\w[\w*]*)`", line.partition("|")[2].partition("|")[0]):
            names.append(f"{names[-1].rpartition('_')[0]}{name}" if name.startswith("_") else name)
    return set(names)


def unexplained(written: set[str], documented: set[str]) -> set[str]:
    """Which of the names match none of the documented ones, in which `*` stands for anything."""
    return {name for name in written if not any(fnmatchcase(name, pattern) for pattern in documented)}
