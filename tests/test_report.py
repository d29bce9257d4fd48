"""The page of a run, in a browser."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from command import run
from conftest import unavailable
from PIL import Image
from published import RELEASED

from fruitpipe.result.manifest import Manifest
from fruitpipe.result.report import MOST_BARS, MOST_LABELS, render

NAME = "<script>document.title='ran'<" + "\u2215script>"
"""Of a folder, which has no slash in its name."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="module")
def page(fruits: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of a run of two labels."""
    folder = tmp_path_factory.mktemp("report")
    shutil.copytree(fruits / "Apple", folder / "in" / NAME)
    shutil.copytree(fruits / "Lemon", folder / "in" / "Lemon")
    found = run(folder / "in", folder / "out")
    return (folder / "out/runs" / found["run"] / "report.html").read_text()


def shown(page: str, folder: Path) -> tuple[str, str, Image.Image]:
    """What becomes of a page in a browser: the document, what the console says, and a picture."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None) or unavailable("no chromium: install it")
    file, picture = folder / "report.html", folder / "report.png"
    file.write_text(page)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr"]
    command = [browser, *options, f"--user-data-dir={folder / 'profile'}", "--window-size=1200,1600"]
    dumped, pictured = (
        subprocess.run([*command, option, file.as_uri()], capture_output=True, text=True, check=True, timeout=120)
        for option in ("--dump-dom", f"--screenshot={picture}")
    )
    said = [line for line in (dumped.stderr + pictured.stderr).splitlines() if "CONSOLE" in line]
    return dumped.stdout, "\n".join(said), Image.open(picture).convert("RGB")


def test_a_browser_shows_the_page_as_it_is_meant_and_has_nothing_to_say(page: str, tmp_path: Path) -> None:
    document, said, picture = shown(page, tmp_path)
    assert not said
    assert "<title>fruitpipe run" in document
    colours = {colour for _, colour in picture.getcolors(1 << 24)}
    assert (0x2A, 0x8F, 0x5C) in colours, "the curve, by the page's style"
    assert "style=" not in page


def test_each_point_names_its_image(page: str) -> None:
    assert "Lemon/lemon_000.jpg (Lemon)</title>" in page


def test_labels_beyond_those_seen_at_once_are_there() -> None:
    """Where they are more than the page ever has, their number is."""
    released = Manifest.read(RELEASED.read_bytes())
    for labels, more in ((90, False), (MOST_LABELS + 7, True)):
        counts = released.counts.model_copy(update={"by_label": {f"label {each}": 3 for each in range(labels)}})
        text = render(released.model_copy(update={"counts": counts}), [])
        assert f"{min(labels, MOST_LABELS) - MOST_BARS} more</summary>" in text
        assert f"<td>label {min(labels, MOST_LABELS) - 1}</td>" in text
        assert ("and 7 more labels" in text) == more


def test_a_name_that_is_a_script_is_text(page: str) -> None:
    assert NAME not in page
    assert "&lt;script&gt;" in page


@pytest.mark.slow
@pytest.mark.parametrize(
    "injected",
    [
        "<script>document.title = 'changed'</script>",
        "<img src=x onerror=\"document.title = 'changed'\">",
        "<p style='color: red'>",
        "<style>td { color: red }</style>",
        "<base href='https://example.org/'>",
        "<img src='https://example.org/x.png'>",
        "<link rel=stylesheet href='https://example.org/x.css'>",
        "<iframe src='https://example.org/'></iframe>",
    ],
)
def test_what_gets_into_the_page_in_spite_of_that_has_no_effect(page: str, tmp_path: Path, injected: str) -> None:
    document, said, _ = shown(page.replace("<h1>", f"{injected}<h1>"), tmp_path)
    assert "Content Security Policy" in said
    assert "<title>changed" not in document


def test_without_its_policy_the_page_would_run_scripts(page: str, tmp_path: Path) -> None:
    """The test before sees what it says that it does not see."""
    script = "<script>document.title = 'changed'</script>"
    document, *_ = shown(page.replace("http-equiv", "name").replace("<h1>", f"{script}<h1>"), tmp_path)
    assert "<title>changed" in document
