"""Every relative link in the documentation leads to a file, and to a heading where it names one; the README stays short."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from markdown_it.token import Token

_WORDS: Final = 900
_MARKDOWN: Final = MarkdownIt("commonmark").enable("table")


def pages(root: Path) -> list[Path]:
    tops = ("README.md", "CONTRIBUTING.md", "SECURITY.md")
    return [*(root / name for name in tops), *sorted((root / "docs").rglob("*.md"))]


def tokens(text: str) -> Iterator[Token]:
    for block in _MARKDOWN.parse(text):
        yield block
        yield from block.children or ()


def links(text: str) -> list[str]:
    """Targets of links and pictures; what is in code is neither."""
    found = (token.attrGet("href") or token.attrGet("src") for token in tokens(text))
    return [str(target) for target in found if target]


def anchors(text: str) -> set[str]:
    """What GitHub calls the headings: lower case, hyphens for spaces, no punctuation; a repeated one gets a number."""
    found: dict[str, int] = {}
    blocks = _MARKDOWN.parse(text)
    for before, block in pairwise(blocks):
        if before.type != "heading_open":
            continue
        title = "".join(token.content for token in block.children or () if token.type in {"text", "code_inline"})
        name = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        found[f"{name}-{found[name]}" if name in found else name] = 0
        found[name] += 1
    return set(found)


def fault(page: Path, target: str, root: Path) -> str | None:
    """What is wrong with a link on the page, None for one that leads somewhere or out of the checkout."""
    url = urlsplit(target)
    if url.scheme or url.netloc:
        return None
    there = (page.parent / unquote(url.path)).resolve() if url.path else page
    if not there.is_relative_to(root.resolve()):
        return "leads out of the checkout"
    if not there.exists():
        return "there is no such file"
    if url.fragment and there.suffix == ".md" and unquote(url.fragment) not in anchors(there.read_text()):
        return "there is no such heading"
    return None


def test_every_relative_link_leads_somewhere(root: Path) -> None:
    seen, wrong = set[tuple[str, str]](), []
    for page in pages(root):
        for target in links(page.read_text()):
            seen.add((page.relative_to(root).as_posix(), target))
            if (why := fault(page, target, root)) is not None:
                wrong.append(f"{page.relative_to(root)}: {target}: {why}")
    assert {("README.md", "docs/README.md"), ("docs/README.md", "architecture.md")} <= seen
    assert {page for page, _ in seen} >= {"README.md", "CONTRIBUTING.md", "docs/architecture.md"}
    assert not wrong, "\n" + "\n".join(wrong)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[a](b.md)", None),
        ("[a](b.md#two-words-and-code)", None),
        ("[a](b.md#twice-1)", None),
        ("[a](#here)", None),
        ("[a](https://example.com/b.md#c)", None),
        ("`[a](c.md)`", None),
        ("```\n[a](c.md)\n```", None),
        ("[a](c.md)", "there is no such file"),
        ("![a](c.png)", "there is no such file"),
        ("[a][1]\n\n[1]: c.md", "there is no such file"),
        ("| x |\n|---|\n| [a](c.md) |", "there is no such file"),
        ("[a](b.md#three)", "there is no such heading"),
        ("[a](b.md#in-a-block)", "there is no such heading"),
        ("[a](b.md#twice-2)", "there is no such heading"),
        ("[a](../b.md)", "leads out of the checkout"),
    ],
)
def test_a_link_that_leads_nowhere_is_found(tmp_path: Path, text: str, why: str | None) -> None:
    """Links, pictures, references and cells of tables, by file and by heading; not in code, and not of the web."""
    page = tmp_path / "a.md"
    page.write_text(f"# Here\n\n{text}\n")
    (tmp_path / "b.md").write_text("## Two words, and `code`\n\n# Twice\n\n# Twice\n\n```console\n# In a block\n```\n")
    faults = [fault(page, target, tmp_path) for target in links(page.read_text())]
    assert [found for found in faults if found is not None] == ([] if why is None else [why])


def test_the_readme_is_short(root: Path) -> None:
    assert len((root / "README.md").read_text().split()) <= _WORDS
