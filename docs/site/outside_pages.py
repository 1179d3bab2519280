"""A hook of mkdocs: the repository's pages beside docs/ become pages of the site, and links lead to them.

A page of the nav that begins with `repository/` is the file of that path in the repository.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
OUTSIDE = PurePosixPath("repository")
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")


def on_files(files: Any, *, config: Any) -> Any:
    """Add the pages that are not in docs/."""
    from mkdocs.structure.files import File

    for place in _places(config.nav):
        if place.is_relative_to(OUTSIDE):
            source = REPOSITORY / place.relative_to(OUTSIDE)
            files.append(File.generated(config, str(place), abs_src_path=str(source)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_rest: Any) -> str:
    """Turn links between files of the repository into links between pages of the site."""
    return LINK.sub(lambda link: link_on_site(page.file.src_uri, link[1]), markdown)


def link_on_site(place: str, link: str) -> str:
    """What a relative link of the page at a place of the site becomes."""
    found = os.path.normpath(_in_repository(place).parent / link)
    return os.path.relpath(_on_site(PurePosixPath(found)), PurePosixPath(place).parent)


def _in_repository(place: str) -> PurePosixPath:
    path = PurePosixPath(place)
    return path.relative_to(OUTSIDE) if path.is_relative_to(OUTSIDE) else "docs" / path


def _on_site(path: PurePosixPath) -> PurePosixPath:
    return path.relative_to("docs") if path.is_relative_to("docs") else OUTSIDE / path


def _places(nav: Any) -> Iterator[PurePosixPath]:
    """Every page of a nav, or of a part of it."""
    if isinstance(nav, str):
        yield PurePosixPath(nav)
    else:
        for part in nav.values() if isinstance(nav, dict) else nav:
            yield from _places(part)
