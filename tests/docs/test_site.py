"""The manual builds without a warning, its links lead somewhere, and it opens from disk without a network."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from .conftest import ROOT, Site

LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src", "embed": "src"}


class Page(HTMLParser):
    """The ids, links and loaded files of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = {""}
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag == "link" and values.get("rel") in ("stylesheet", "icon", "preload", "shortcut icon"):
            self.loaded.append(values["href"])
        if tag in LOADED and LOADED[tag] in values:
            self.loaded.append(values[LOADED[tag]])
        self.loaded += re.findall(r"url\(['\"]?([^'\")]+)", values.get("style", ""))


@cache
def page(path: Path) -> Page:
    return Page(path)


def pages(site: Site) -> list[Path]:
    """The pages of the manual; files that it offers for download are no pages of it."""
    return sorted(path for path in site.html.rglob("*.html") if "_downloads" not in path.relative_to(site.html).parts)


def broken(site: Site) -> Iterator[str]:
    """Links of the built pages that lead nowhere."""
    for path in pages(site):
        for link in page(path).links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                yield f"{path.relative_to(site.html)}: {link}: no such file"
            elif target.suffix == ".html" and parts.fragment and unquote(parts.fragment) not in page(target).ids:
                yield f"{path.relative_to(site.html)}: {link}: no such anchor"


def test_sphinx_warns_of_nothing(site: Site) -> None:
    lines = [line.replace(f"{ROOT}/", "") for line in site.warnings.splitlines()]
    assert not lines, f"{len(lines)} warnings:\n" + "\n".join(lines)


def test_links_of_the_pages_lead_somewhere(site: Site) -> None:
    found = sorted(set(broken(site)))
    assert not found, "\n".join(found)


_LINK = re.compile(r"\]\(<?([^)\s>]+)|(?:src|href)=\"([^\"]+)\"")


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "AGENTS.md", "CHANGELOG.md"])
def test_links_of_the_repository_lead_somewhere(site: Site, name: str) -> None:
    """To files of the repository; anchors in the manual are those of its pages."""
    text = re.sub(r"^```.*?^```", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    wrong = []
    for link in (found[1] or found[2] for found in _LINK.finditer(text)):
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        target = ROOT / parts.path if parts.path else ROOT / name
        if not target.exists():
            wrong.append(f"{link}: no such file")
        elif parts.fragment and target.suffix == ".md" and parts.fragment not in anchors(site, target):
            wrong.append(f"{link}: no such anchor")
    assert not wrong, "\n".join(wrong)


def anchors(site: Site, path: Path) -> set[str]:
    """The anchors of a Markdown file: of its page in the manual, or of its headings as GitHub names them."""
    if path.is_relative_to(ROOT / "docs"):
        return page(site.html / path.relative_to(ROOT / "docs").with_suffix(".html")).ids
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_no_page_loads_anything_from_the_network(site: Site) -> None:
    wrong = []
    for path in pages(site):
        wrong += [f"{path.relative_to(site.html)}: {link}" for link in page(path).loaded if urlsplit(link).netloc]
    for path in site.html.rglob("*.css"):
        loaded = re.findall(r"(?:url\(|@import\s+)['\"]?([^'\")\s;]+)", path.read_text(encoding="utf-8"))
        wrong += [f"{path.relative_to(site.html)}: {link}" for link in loaded if urlsplit(link).netloc]
    assert not wrong, "\n".join(wrong)


def test_every_image_of_a_page_has_words_for_who_cannot_see_it(site: Site) -> None:
    wrong = []
    for path in pages(site):
        for tag in re.findall(r"<img\b[^>]*>", path.read_text(encoding="utf-8")):
            if not re.search(r'\balt="[^"]{3,}"', tag) or re.search(r'\balt="[^"]*\.(?:png|svg|jpg)"', tag):
                wrong.append(f"{path.relative_to(site.html)}: {tag[:120]}")
    assert not wrong, "\n".join(wrong)


class Opened:
    """A tab of the browser without a network, which remembers what was asked for and what went wrong."""

    def __init__(self, browser: Any, site: Site, width: int = 1200) -> None:
        self.site = site
        self.asked: list[str] = []
        self.errors: list[str] = []
        self.tab = browser.new_context(offline=True).new_page()
        self.tab.set_viewport_size({"width": width, "height": 900})
        self.tab.on("request", lambda request: self.asked.append(request.url))
        self.tab.on("pageerror", lambda error: self.errors.append(str(error)))

    def open(self, name: str) -> Any:
        self.tab.goto(f"file://{self.site.html / name}")
        return self.tab

    def from_the_network(self) -> list[str]:
        return [url for url in self.asked if not url.startswith(("file:", "data:", "blob:"))]


@pytest.mark.parametrize("width", [1200, 400])
def test_pages_open_from_disk(browser: Any, site: Site, width: int) -> None:
    opened = Opened(browser, site, width)
    wide = []
    for path in pages(site):
        name = path.relative_to(site.html).as_posix()
        tab = opened.open(name)
        if tab.evaluate("document.documentElement.scrollWidth") > width:
            wide.append(name)
    assert opened.from_the_network() == []
    assert opened.errors == []
    assert wide == [], "wider than the window"


@pytest.mark.parametrize("words", ["packing", "reason code", "hierarchical_iou", "--depth-near", "teacher_leak"])
def test_search_finds_words_without_a_network(browser: Any, site: Site, words: str) -> None:
    opened = Opened(browser, site)
    tab = opened.open("search.html")
    tab.locator("input[name=q]").last.fill(words)
    tab.locator("input[name=q]").last.press("Enter")
    tab.wait_for_selector("#search-results ul.search li a", timeout=10_000)
    assert opened.from_the_network() == []
    assert opened.errors == []
