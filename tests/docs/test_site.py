"""The pages as a site: every page is in the nav, every link and anchor leads somewhere, lists are lists to mkdocs, too.

mkdocs itself is not needed here; docs/README.md has the command that builds the site.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LINK = re.compile(r"\]\((?![a-z]+:)([^)\s]*)\)")
HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)
ITEM = re.compile(r"(?:\d+\.|[-*]) ")


def flat(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    else:
        for part in nav.values() if isinstance(nav, dict) else nav:
            yield from flat(part)


NAV = list(flat(yaml.safe_load((DOCS / "site/mkdocs.yml").read_text())["nav"]))
PAGES = {
    place: ROOT / place.removeprefix("repository/") if place.startswith("repository/") else DOCS / place
    for place in NAV
}


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """File and anchor that each link inside the repository leads to."""
    for link in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
        path, _, anchor = link.partition("#")
        yield (page.parent / path).resolve() if path else page, anchor


def of_github(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def of_mkdocs(heading: str) -> str:
    """Python-Markdown's `toc.slugify`."""
    ascii_only = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", ascii_only).strip().lower())


def anchors(page: Path, slug: Callable[[str], str]) -> set[str]:
    """Of a page's headings, without their marks of code, emphasis and links."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return {slug(re.sub(r"\[([^]]*)\]\([^)]*\)|[`*]", r"\1", heading)) for heading in HEADING.findall(text)}


def test_every_page_is_in_the_nav_once() -> None:
    assert len(NAV) == len(set(NAV))
    assert {place for place in NAV if not place.startswith("repository/")} == {
        str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")
    }
    assert [place for place, page in PAGES.items() if not page.is_file()] == []


@pytest.mark.parametrize("place", NAV)
def test_every_link_and_anchor_of_a_page_leads_somewhere_on_the_site_and_in_the_repository(place: str) -> None:
    pages, broken = set(PAGES.values()), []
    for target, anchor in links(PAGES[place]):
        is_there = target in pages if target.suffix == ".md" else target.is_file() and target.is_relative_to(DOCS)
        if is_there and anchor:
            is_there = all(anchor in anchors(target, slug) for slug in (of_github, of_mkdocs))
        broken += [] if is_there else [f"{target}#{anchor}"]
    assert broken == []


@pytest.mark.parametrize("place", NAV)
def test_a_list_begins_after_a_blank_line_for_otherwise_mkdocs_sees_none(place: str) -> None:
    lines = re.sub(r"^```.*?^```", "", PAGES[place].read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    pairs = list(zip(["", *lines.splitlines()], lines.splitlines(), strict=False))
    assert [line for before, line in pairs if ITEM.match(line) and re.match(r"(?!\d+\. )[^\s\-*#]", before)] == []


def test_what_stands_below_an_item_of_a_list_is_indented_by_four_for_less_is_no_code_to_mkdocs() -> None:
    """`1.  text`, then code by eight: so do both kinds of Markdown see it."""
    for page in PAGES.values():
        text = page.read_text(encoding="utf-8")
        assert re.findall(r"^ {3}```| *\d+\. \S[^\n]*\n\n {5,7}\S", text, re.MULTILINE) == [], page


def test_links_between_files_become_links_between_pages() -> None:
    hook: dict[str, Any] = {"__file__": str(DOCS / "site/outside_pages.py")}
    exec((DOCS / "site/outside_pages.py").read_text(), hook)
    assert [
        hook["link_on_site"](place, link)
        for place, link in (
            ("plan.md", "data.md"),
            ("plan.md", "../README.md"),
            ("studies/zoo.md", "../../benchmarks/README.md"),
            ("repository/README.md", "docs/plan.md"),
            ("repository/kernels/README.md", "egrc_kernels/rope/README.md"),
        )
    ] == [
        "data.md",
        "repository/README.md",
        "../repository/benchmarks/README.md",
        "../plan.md",
        "egrc_kernels/rope/README.md",
    ]
