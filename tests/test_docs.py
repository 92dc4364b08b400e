# SPDX-License-Identifier: Apache-2.0
"""The pages of docs/: all of them on the site, links that lead somewhere, messages that exist."""

import ast
import itertools
import pathlib
import re
import sys
from collections.abc import Iterator

import pytest
import yaml
from doors import PROJECT, run_apart

DOCS = PROJECT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
LINK = re.compile(r"\]\((?!https?:)([^)\s]+)\)")


def name_of(path: pathlib.Path) -> str:
    return path.name


def text_of(path: pathlib.Path) -> str:
    return path.read_text(encoding="utf-8")


def prose(text: str) -> str:
    """A page without its indented blocks and without code in its lines."""
    lines = [line for line in text.splitlines() if not line.startswith("    ")]
    return re.sub(r"`[^`]*`", "", "\n".join(lines))


def anchors(page: pathlib.Path) -> set[str]:
    """As GitHub and the site make them of plain headings."""
    titles = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def in_nav(entries: object) -> Iterator[str]:
    if isinstance(entries, str):
        yield entries
    for entry in entries if isinstance(entries, list) else []:
        for inside in entry.values() if isinstance(entry, dict) else [entry]:
            yield from in_nav(inside)


def test_every_page_stands_once_in_the_navigation() -> None:
    config = yaml.safe_load(text_of(PROJECT / "mkdocs.yml"))
    assert sorted(in_nav(config["nav"])) == [page.name for page in PAGES]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_links_within_docs(page: pathlib.Path) -> None:
    """What lies elsewhere in the repository is not on the site: it is named as code."""
    for link in LINK.findall(prose(text_of(page))):
        target, _, anchor = link.partition("#")
        path = (DOCS / target).resolve() if target else page
        assert path.is_relative_to(DOCS), link
        assert path.is_file(), link
        assert not anchor or anchor in anchors(path), link


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_reads_alike_on_github_and_on_the_site(page: pathlib.Path) -> None:
    """GitHub begins a list or a table in the middle of a paragraph, Python-Markdown does not."""
    lines = prose(text_of(page)).splitlines()
    for before, line in itertools.pairwise(lines):
        for mark in (r"- ", r"\d+\. ", r"\|"):
            if re.match(mark, line):
                assert not before.strip() or re.match(rf"{mark}| ", before), line
    assert lines[0].startswith("# ")


def message(node: ast.AST) -> str:
    """The text that an expression makes, with … for each part that varies."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(message(part) for part in node.values)
    return "…"


def messages() -> str:
    """All texts of the package and of its configs, one a line."""
    files = [*(PROJECT / "cots_jax").rglob("*.py"), *(PROJECT / "configs").glob("*.py")]
    nodes = itertools.chain.from_iterable(ast.walk(ast.parse(text_of(file))) for file in files)
    return "\n".join(
        message(node) for node in nodes if isinstance(node, ast.JoinedStr | ast.Constant)
    )


def test_every_message_of_the_troubleshooting_page_stands_in_the_source() -> None:
    entries = re.findall(r"^- (`.*)$", text_of(DOCS / "troubleshooting.md"), re.MULTILINE)
    quoted = [each for entry in entries for each in re.findall(r"`([^`]+)`", entry)]
    known = messages()
    assert len(quoted) >= 40
    assert [each for each in quoted if each not in known] == []


def test_figures_of_the_readme_are_those_of_the_results() -> None:
    """A row of its tables with a recall in it stands in the page that the README points to."""
    rows = [line for line in text_of(PROJECT / "README.md").splitlines() if line.startswith("|")]
    figures = [re.findall(r"\d+\.\d / \d+\.\d / \d+\.\d", row) for row in rows]
    lines = text_of(DOCS / "results.md").splitlines()
    assert sum(map(len, figures)) >= 6
    for found in filter(None, figures):
        assert any(all(each in line for each in found) for line in lines), found


def test_the_site_builds_strictly_and_asks_nobody(tmp_path: pathlib.Path) -> None:
    site = tmp_path / "site"
    said = run_apart(
        PROJECT, [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    )
    assert said.status == 0, said.err
    assert not re.search(r"^WARNING", said.err, re.MULTILINE)
    assert {path.stem for path in site.glob("*.html")} >= {page.stem for page in PAGES}
    for page in site.glob("*.html"):
        loaded = re.findall(
            r"<(?:script|img|link)\b[^>]*(?:src|href)=\"?([^\s\">]+)", text_of(page)
        )
        assert loaded
        assert not [each for each in loaded if each.startswith(("http", "//"))], page.name
