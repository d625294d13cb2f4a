"""The pages of a dataset, opened in a browser that runs their script."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sifthinker.cli.main import main
from sifthinker.errors import RecordError
from sifthinker.files import write_jsonl
from sifthinker.records import Reject
from sifthinker.show.viewer import PER_PART, write_viewer

EVIL = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


@pytest.fixture(scope="module")
def dataset(chains: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chains many times over, one with a hostile question and thought, and rejects, one of them hostile."""
    folder = tmp_path_factory.mktemp("shown") / "chains"
    shutil.copytree(chains, folder)
    rows = [json.loads(line) for line in (folder / "examples.jsonl").read_text().splitlines()]
    copies = [{**row, "id": f"{row['id']}-{n}"} for n in range(PER_PART // len(rows) + 1) for row in rows]
    thought = copies[1]["messages"][1]["content"].replace("<text>", f"<text>{EVIL.replace('<', '‹')} 2 < 3 ", 1)
    copies[1] |= {"problem": EVIL, "messages": [copies[1]["messages"][0], {"role": "assistant", "content": thought}]}
    write_jsonl(folder / "examples.jsonl", copies)
    attempt = {"reply": EVIL, "problems": [EVIL], "codes": ["leak"]}
    rejects = [
        Reject("f:1", "bad", "teacher_leak", f"f:1: {EVIL}", (attempt,)),
        Reject("f:2", "", "not_json", "f:2: not JSON"),
    ]
    write_jsonl(folder / "rejects.jsonl", [reject.to_json() for reject in rejects])
    return folder


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that fails the test when a script does, when the policy stops one, or when anything is fetched from the net."""
    opened = browser.new_page(viewport={"width": 1400, "height": 900})
    faults: list[str] = []
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    opened.on("request", lambda request: faults.append(request.url) if request.url.startswith("http") else None)
    yield opened
    opened.close()
    assert faults == []


def widths(page: Any) -> list[int]:
    """Of the two images once loaded. Playwright's own waiting evaluates strings, which the page's policy forbids."""
    for _ in range(100):
        found = page.evaluate("[...document.querySelectorAll('.frame img')].map(image => image.naturalWidth)")
        if len(found) == 2 and all(found):
            break
        page.wait_for_timeout(50)
    return found


def test_a_chain_is_clicked_through(dataset: Path, tmp_path: Path, page: Any) -> None:
    write_viewer(dataset, tmp_path / "show")
    page.goto((tmp_path / "show" / "index.html").as_uri())
    page.locator("#list button").first.click()
    first = json.loads((dataset / "examples.jsonl").read_text().splitlines()[0])
    assert page.locator("#entry h2").inner_text() == first["problem"]
    assert page.locator("#entry .answer").inner_text() == first["answer"]
    steps = page.locator("#buttons button")
    assert steps.count() == first["messages"][1]["content"].count("<area>")
    seen = set()
    for number in range(steps.count()):
        steps.nth(number).click()
        assert steps.nth(number).get_attribute("aria-pressed") == "true"
        seen.add(page.locator("#words").inner_text())
        for frame in page.locator(".frame").all():
            assert frame.locator(".box:not(.target)").count() >= 1
            assert frame.locator(".box.target").count() == len(first["boxes"])
    assert len(seen) > 1
    page.keyboard.press("ArrowLeft")
    assert steps.nth(steps.count() - 2).get_attribute("aria-pressed") == "true"
    # Both images are really there.
    assert widths(page) == [64, 64]
    # A box stands where the chain says, to a pixel.
    x1, _, x2, _ = first["boxes"][0]
    frame = page.locator(".frame").first.bounding_box()
    target = page.locator(".frame").first.locator(".box.target").first.bounding_box()
    assert target["x"] - frame["x"] == pytest.approx(x1 * frame["width"], abs=2)
    assert target["width"] == pytest.approx((x2 - x1) * frame["width"], abs=2)


def test_filters_pages_and_the_list(dataset: Path, tmp_path: Path, page: Any) -> None:
    examples, rejects = write_viewer(dataset, tmp_path / "show")
    assert (examples > PER_PART, rejects) == (True, 2)
    page.goto((tmp_path / "show" / "index.html").as_uri())
    total = f"{examples + rejects:,}"
    assert page.locator("#count").inner_text() == f"{total} of {total}"
    assert page.locator("#list button").count() == 50  # never all of them
    page.select_option("#family", "count")
    assert page.locator("#count").inner_text().startswith(f"{examples // 3:,} of")
    page.fill("#search", "how MANY")
    assert page.locator("#list button").count() > 0
    page.fill("#search", "no such words")
    assert page.locator("#count").inner_text() == f"0 of {total}"
    page.fill("#search", "")
    page.select_option("#family", "*")
    page.select_option("#code", "teacher_leak")
    page.locator("#list button").first.click()
    assert "teacher_leak" in page.locator("#entry p.code").inner_text()
    page.select_option("#code", "*")
    page.locator("#after").click()
    assert page.locator("#page").inner_text().startswith("2 of")
    page.keyboard.press("ArrowUp")  # nothing chosen on this page: no fault
    # The last example lies in the second part, which is read when it is asked for.
    page.goto((tmp_path / "show" / "index.html").as_uri() + f"#{examples - 1}")
    page.reload()
    page.wait_for_selector("#buttons button")
    page.keyboard.press("ArrowDown")
    page.wait_for_selector("#entry p.code")


def test_hostile_text_is_shown_not_run(dataset: Path, tmp_path: Path, page: Any) -> None:
    write_viewer(dataset, tmp_path / "show")
    page.goto((tmp_path / "show" / "index.html").as_uri())
    assert EVIL in page.locator("#list").inner_text()
    page.locator("#list button").nth(1).click()
    assert page.locator("#entry h2").inner_text() == EVIL
    assert "2 < 3" in page.locator("#words").inner_text()
    page.select_option("#code", "teacher_leak")
    page.locator("#list button").first.click()
    page.wait_for_selector("#entry p.code")
    assert EVIL in page.locator("#entry pre").first.inner_text()
    page.wait_for_timeout(200)
    assert page.title() == "chains"
    for path in (tmp_path / "show").glob("*.js"):
        if path.name != "show.js":
            assert "<" not in path.read_text(), path


def test_embedded_pages_may_be_moved(dataset: Path, tmp_path: Path, page: Any) -> None:
    done = CliRunner().invoke(main, ["data", "show", str(dataset), "-o", str(tmp_path / "show"), "--embed"])
    assert done.exit_code == 0, done.output
    shutil.move(tmp_path / "show", tmp_path / "elsewhere")
    page.goto((tmp_path / "elsewhere" / "index.html").as_uri())
    page.locator("#list button").first.click()
    assert widths(page) == [64, 64]


def test_names_that_addresses_must_escape(dataset: Path, tmp_path: Path, page: Any) -> None:
    folder = tmp_path / "a #1 100% & more"
    shutil.copytree(dataset, folder)
    write_viewer(folder, tmp_path / "show")
    page.goto((tmp_path / "show" / "index.html").as_uri())
    page.locator("#list button").first.click()
    assert widths(page) == [64, 64]


def test_a_second_run_leaves_nothing_of_the_first(dataset: Path, tmp_path: Path) -> None:
    write_viewer(dataset, tmp_path / "show")
    assert (tmp_path / "show" / "part-1.js").is_file()
    write_jsonl(tmp_path / "few.jsonl", [])
    assert write_viewer(tmp_path / "few.jsonl", tmp_path / "show") == (0, 0)
    assert not list((tmp_path / "show").glob("part-*.js"))


def test_what_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no such examples file"):
        write_viewer(tmp_path, tmp_path / "show")
    write_jsonl(tmp_path / "examples.jsonl", [])
    write_jsonl(tmp_path / "rejects.jsonl", [{"code": "x"}])
    with pytest.raises(RecordError, match="not a reject"):
        write_viewer(tmp_path, tmp_path / "show")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("index.html", "<!doctype html><title>my site</title>"),
        (
            "index.html",
            '<!doctype html>\n<html lang="en">\n<body><pre>\n'
            '<script src="show.js"></script>\n<script src="index.js"></script>\n</pre>\n</body>\n</html>\n',
        ),
        (
            "index.html",
            '<p>mine</p><!-- <script src="show.js"></script>\n<script src="index.js"></script>\n</body>\n</html>\n',
        ),
        ("index.js", "console.log(1)"),
        ("index.js", "// as in\nsif.index({});"),
        ("index.js", "sif.index(mine);"),
        ("show.js", "// not\nconst sif = (() => {})"),
        ("show.js", '"use strict";\nlet mine;\nconst sif = (() => {})'),
        ("show.js", "export const show = 1"),
        ("part-3.js", "sif.partition()"),
        ("index.html", ""),
    ],
)
def test_files_of_somebody_else_stay_as_they_are(dataset: Path, tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    (tmp_path / "part-0.js").write_text("sif.part(0, []);\n")
    done = CliRunner().invoke(main, ["data", "show", str(dataset), "-o", str(tmp_path)])
    assert done.exit_code == 2
    assert f"{name}: would be overwritten, but is not a file of `sif data show`" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({name, "part-0.js"})
    assert (tmp_path / name).read_text() == text


def test_pages_of_an_older_version_are_replaced_and_neighbours_kept(dataset: Path, tmp_path: Path) -> None:
    """As version 0.1.0 wrote them: without any mark but the scripts that the page names."""
    (tmp_path / "index.html").write_text(
        '<!doctype html>\n<html lang="en">\n<head><title>chains</title></head>\n<body>\n'
        '<script src="show.js"></script>\n<script src="index.js"></script>\n</body>\n</html>\n'
    )
    (tmp_path / "index.js").write_text('sif.index({"title":"chains","perPart":200,"rows":[]});\n')
    (tmp_path / "show.js").write_text('"use strict";\n// The dataset\'s text.\nconst sif = (() => {\n})();\n')
    (tmp_path / "part-7.js").write_text("sif.part(7, []);\n")
    for mine in ("part-one.js", "part-.js", "notes.txt"):
        (tmp_path / mine).write_text("mine")
    write_viewer(dataset, tmp_path)
    assert not (tmp_path / "part-7.js").exists()
    for mine in ("part-one.js", "part-.js", "notes.txt"):
        assert (tmp_path / mine).read_text() == "mine"
    write_viewer(dataset, tmp_path)
