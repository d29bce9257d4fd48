"""The page of all images: its columns, what it says, and what it does in a browser."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import command
import numpy as np
import pyarrow.parquet as pq
import pytest
import trust
from command import fruitpipe, one_line_error
from conftest import unavailable
from outside import install
from parts import footers
from playwright.sync_api import Browser, expect, sync_playwright
from published import find_nearest, publish
from scipy.linalg import orthogonal_procrustes
from seaweed import BUCKET, Server
from sklearn.manifold import trustworthiness
from sklearn.metrics.pairwise import cosine_distances
from test_report import BROWSERS

from fruitpipe.config import S3Config
from fruitpipe.errors import FruitpipeError
from fruitpipe.explore.clusters import by_size, cluster
from fruitpipe.explore.comparison import aligned, compare
from fruitpipe.explore.facts import causes, facts_of
from fruitpipe.explore.judgement import judge
from fruitpipe.explore.layout2d import lay_out
from fruitpipe.explore.page import add_page, page_of
from fruitpipe.result.garbage import find_garbage
from fruitpipe.result.page_on_disk import page_on_disk
from fruitpipe.result.runs import Run, open_run, point_latest
from fruitpipe.storage import layout
from fruitpipe.storage.store import LocalStore, open_store

FIRST, SECOND = "20261127-120000-0000", "20261127-130000-0001"
SCRIPT = "<script>document.title='ran'</script>"
HOSTILE = [f"a/{SCRIPT}.jpg", "b/\"quoted\" 'twice' & more.jpg", "c/two\nlines.jpg", "d/\u202egpj.exe", "=1+1/e.jpg"]
FAILURES = [
    ("z/broken.jpg", "undecodable", "cannot identify image file"),
    ("z/torn.jpg", "undecodable", "cannot identify image file"),
    (f"z/{SCRIPT}.jpg", "too_large", f"larger than {SCRIPT}"),
]


def blobs(count: int, seed: int = 0) -> tuple[np.ndarray[Any, np.dtype[np.float32]], list[str]]:
    """Vectors, shape (count, 12), around six means, and labels of which the third image of all has a wrong one."""
    random = np.random.default_rng(seed)
    number = np.arange(count) * 6 // count
    means = 6 * np.random.default_rng(7).normal(size=(6, 12))
    vectors = (means[number] + random.normal(size=(count, 12))).astype(np.float32)
    vectors[2] = vectors[-1]
    return vectors, [f"fruit {each}" for each in number.tolist()]


def paths_of(labels: list[str]) -> list[str]:
    """A path for each, hostile ones first."""
    return HOSTILE + [f"{label}/{row:04}.jpg" for row, label in enumerate(labels)][len(HOSTILE) :]


def rows_of(labels: list[str]) -> list[tuple[str, str]]:
    return list(zip(paths_of(labels), labels, strict=True))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A published run of 600 images, one of them among images of another label."""
    store = LocalStore(str(tmp_path_factory.mktemp("explored") / "out"))
    store.create()
    vectors, labels = blobs(600)
    return publish(store, FIRST, paths_of(labels), labels, vectors, FAILURES)


@pytest.fixture(scope="module")
def page(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "explore.html"
    file.write_bytes(page_of(run))
    return file


@pytest.fixture(scope="module")
def launch() -> Iterator[Callable[..., Browser]]:
    """Starts the system's Chromium with some options."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None) or unavailable("no chromium: install it")
    with sync_playwright() as playwright:
        yield lambda *options: playwright.chromium.launch(executable_path=found, args=["--no-sandbox", *options])


@pytest.fixture(scope="module")
def browser(launch: Callable[..., Browser]) -> Iterator[Browser]:
    started = launch("--disable-dev-shm-usage", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
    yield started
    started.close()


# Pictures are unpacked late, as on a busy machine: a test that does not wait for them fails each time, not by chance.
UNPACKED_LATE = """{
    const unpack = createImageBitmap;
    self.createImageBitmap = async (...what) => {
        await new Promise((done) => setTimeout(done, 200));
        return unpack(...what);
    };
}"""


class Tab:
    """A page in the browser, what its console says, and what it asks for."""

    def __init__(self, browser: Browser, file: Path, **options: Any) -> None:
        self.page = browser.new_page(**{"viewport": {"width": 1280, "height": 800}} | options)
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.add_init_script(UNPACKED_LATE)
        self.page.goto(file.as_uri())
        self.page.wait_for_selector("html[data-ready]", state="attached")
        self.own = file.as_uri()

    def status(self) -> str:
        return self.page.inner_text("#status")

    def places(self) -> list[list[float]]:
        """Rings around the image that is shown, in pixels of the map."""
        found = self.page.locator("#overlay circle.current")
        found.first.wait_for(state="attached")  # by the next frame
        return [[float(each.get_attribute(name) or 0) for name in ("cx", "cy")] for each in found.all()]

    def csv(self, file: Path) -> list[tuple[str, ...]]:
        """Rows of the selection as a file, without the names of the columns."""
        with self.page.expect_download() as download:
            self.page.click("#csv")
        download.value.save_as(file)
        with file.open(newline="") as opened:
            names, *rows = csv.reader(opened)
        assert names == ["path", "label"]
        return [tuple(row) for row in rows]

    def left_half(self) -> None:
        """Draw around the left half of the map."""
        box = self.page.locator("#canvas").bounding_box()
        assert box
        left, top, width, height = box["x"], box["y"], box["width"], box["height"]
        self.page.mouse.move(left + 3, top + 3)
        self.page.mouse.down()
        for x, y in ((width / 2, 3), (width / 2, height - 3), (3, height - 3), (3, 5)):
            self.page.mouse.move(left + x, top + y, steps=3)
        self.page.mouse.up()


@pytest.fixture
def tab(browser: Browser, page: Path) -> Iterator[Tab]:
    opened = Tab(browser, page)
    yield opened
    assert not opened.said
    assert opened.asked == [opened.own]
    opened.page.close()


def test_a_line_of_the_lists_opens_where_it_is(tab: Tab) -> None:
    """And a second click closes it; the images nearest to it come in its place, not below themselves."""
    tab.page.click("#tab-lists")
    line = tab.page.locator("#lists > ol > li").first
    opened, title = line.locator("button").first, line.locator("#image h3")
    path = opened.locator(".path").inner_text()
    opened.click()
    assert title.inner_text() == path.rpartition("/")[2]
    near = line.locator("#image ol [data-row]").nth(2)
    name = near.locator("b").inner_text()
    near.click()
    expect(title).to_have_text(name)
    opened.click()
    expect(title).not_to_have_text(name)
    opened.click()
    expect(tab.page.locator("#image")).to_be_empty()
    opened.click()
    ((x, y),) = tab.places()
    tab.page.locator("#canvas").click(position={"x": x, "y": y})
    tab.page.wait_for_selector("#chosen #image ol")


def test_a_click_shows_an_image_and_the_nearest_to_it(tab: Tab, run: Run) -> None:
    """The nearest are those of brute force, by all twelve components."""
    tab.page.click("#tab-lists")
    first = tab.page.locator("#lists [data-row]").first
    assert first.get_attribute("data-row") == "2", "the image that is among others"
    first.click()
    ((x, y),) = tab.places()
    tab.page.locator("#canvas").click(position={"x": x, "y": y})
    tab.page.wait_for_selector("#image ol")
    vectors, _ = blobs(600)
    shown = tab.page.evaluate("[...document.querySelectorAll('#image [data-row]')].map((each) => +each.dataset.row)")
    row = int(tab.page.get_attribute("[aria-current=true]", "data-row") or -1)
    expected = np.argsort(np.linalg.norm(vectors - vectors[row], axis=1), kind="stable")
    assert set(shown[1:]) <= set(expected[:14].tolist())
    assert len(shown) == 12
    assert "two\\x0alines.jpg" in tab.page.inner_text("#image") or row != 2
    assert tab.page.title() == f"fruitpipe explore {run.id}"


@pytest.mark.slow
def test_pointing_at_an_image_names_it(tab: Tab) -> None:
    tab.page.fill("#query", "quoted")
    tab.page.click("#selected [data-row]")
    ((x, y),) = tab.places()
    tab.page.locator("#canvas").hover(position={"x": x, "y": y})
    tab.page.wait_for_selector("#tip:not([hidden])")
    assert tab.page.inner_text("#tip").splitlines() == ["\"quoted\" 'twice' & more.jpg", "b/", "fruit 0"]


@pytest.mark.slow
def test_labels_filter(tab: Tab) -> None:
    assert tab.status() == "600 images"
    tab.page.click("#labels button:has-text('fruit 3')")
    assert tab.status() == "100 of 600 images"
    tab.page.click("#labels button:has-text('fruit 4')")
    assert tab.status() == "200 of 600 images"
    tab.page.click("#inview")
    assert "200 images in view" in tab.page.inner_text("#selected")
    tab.page.keyboard.press("Escape")
    tab.page.keyboard.press("Escape")
    assert tab.status() == "600 images"


@pytest.mark.slow
def test_a_lasso_selects_what_is_in_it_and_its_paths_are_a_csv(tab: Tab, tmp_path: Path) -> None:
    vectors, labels = blobs(600)
    tab.page.keyboard.press("v")
    every = [(path.replace("=", "'=", 1) if path[0] == "=" else path, label) for path, label in rows_of(labels)]
    assert tab.csv(tmp_path / "all.csv") == every
    tab.page.keyboard.press("Escape")
    tab.page.select_option("#view", "components")
    tab.page.click("#lasso")
    tab.left_half()
    told = re.search(r"(\d+) images in the lasso", tab.page.inner_text("#selected"))
    assert told
    found = tab.csv(tmp_path / "some.csv")
    assert len(found) == int(told[1]) == len(set(found))
    first = dict(zip(every, vectors[:, 0].tolist(), strict=True))
    assert max(first[row] for row in found) <= min(first[row] for row in set(every) - set(found)) + 0.1


@pytest.mark.slow
def test_the_search_finds_parts_of_paths(tab: Tab) -> None:
    tab.page.keyboard.press("/")
    tab.page.keyboard.type("QUOTED")
    tab.page.wait_for_selector("#selected .row")
    assert "1 image with “quoted” in the path" in tab.page.inner_text("#selected").replace("QUOTED", "quoted")
    tab.page.fill("#query", "fruit 5/")
    expect(tab.page.locator("#selected")).to_contain_text("100 images")
    assert tab.status() == "100 of 600 images"


@pytest.mark.slow
def test_the_keyboard_does_all(tab: Tab) -> None:
    page = tab.page
    page.focus("#canvas")
    page.keyboard.press("Enter")
    assert "Nearest" in page.inner_text("#image")
    before = tab.places()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#overlay .current")).not_to_have_attribute("cx", str(before[0][0]))
    assert tab.places()[0][0] > before[0][0]
    page.keyboard.press("+")
    page.keyboard.press("-")
    page.keyboard.press("0")
    page.keyboard.press("v")
    assert "600 images in view" in page.inner_text("#selected")
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#keys").is_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    assert tab.status() == "600 images"
    page.focus("#tab-chosen")
    page.keyboard.press("ArrowRight")
    assert page.locator("#lists").is_visible()
    for _ in range(60):
        page.keyboard.press("Shift+Tab")  # it stands before the lists
        if page.evaluate("document.activeElement.id") == "query":
            break
    else:
        pytest.fail("Tab does not reach the search field")


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_follows_the_system_s_colours_and_fits_a_telephone(
    browser: Browser, page: Path, width: int, scheme: Any
) -> None:
    tab = Tab(browser, page, viewport={"width": width, "height": 844}, color_scheme=scheme)
    ground = tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground)[:3])) < 384) == (scheme == "dark")
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
    tab.page.emulate_media(color_scheme="light" if scheme == "dark" else "dark")
    assert tab.page.evaluate("getComputedStyle(document.body).backgroundColor") != ground
    assert not tab.said
    tab.page.close()


@pytest.mark.slow
def test_names_are_text(tab: Tab) -> None:
    for each in ("labels", "chosen", "lists", "failures", "run"):
        tab.page.click(f"#tab-{each}")
    tab.page.fill("#query", "script")
    tab.page.wait_for_selector("#selected [data-row]")
    tab.page.click("#selected [data-row]")
    assert SCRIPT.rpartition("/")[2] in tab.page.inner_text("#image")
    assert tab.page.title().startswith("fruitpipe explore")


@pytest.mark.slow
@pytest.mark.parametrize("injected", [SCRIPT, "<img src=x onerror=\"document.title='ran'\">", "<p style='color: red'>"])
def test_what_gets_into_the_page_in_spite_of_that_has_no_effect(
    browser: Browser, page: Path, tmp_path: Path, injected: str
) -> None:
    changed = tmp_path / "changed.html"
    changed.write_text(page.read_text().replace("<h1>", f"{injected}<h1>"))
    tab = Tab(browser, changed)
    assert any("Content Security Policy" in each for each in tab.said)
    assert tab.page.title().startswith("fruitpipe explore")
    tab.page.close()


@pytest.mark.slow
def test_without_scripts_there_are_a_picture_and_the_lists(browser: Browser, page: Path) -> None:
    still = browser.new_page(java_script_enabled=False)
    still.goto(page.as_uri())
    assert still.locator("#still circle").count() == 600
    assert still.locator("#still").is_visible()
    assert still.locator("#failures").is_visible()
    still.close()


@pytest.mark.slow
def test_without_webgl_there_is_a_picture_and_images_are_shown(launch: Callable[..., Browser], page: Path) -> None:
    plain = launch("--disable-3d-apis")
    tab = Tab(plain, page)
    assert tab.page.locator("#still").is_visible()
    assert "no WebGL2" in tab.status()
    tab.page.click("#tab-lists")
    tab.page.locator("#lists [data-row]").first.click()
    tab.page.click("#tab-chosen")
    assert "Nearest" in tab.page.inner_text("#image")
    plain.close()


@pytest.mark.slow
@pytest.mark.parametrize("count", [255, 256, 257])
def test_labels_are_told_apart_in_one_byte_and_in_two(browser: Browser, tmp_path: Path, count: int) -> None:
    store = LocalStore(str(tmp_path / "out"))
    store.create()
    labels = [f"label {each:03}" for each in range(count) for _ in range(2)]
    paths = [f"{label}/{row:03}.jpg" for row, label in enumerate(labels)]
    published = publish(
        store, FIRST, paths, labels, np.random.default_rng(0).normal(size=(2 * count, 2)).astype(np.float32)
    )
    (tmp_path / "page.html").write_bytes(page_of(published))
    tab = Tab(browser, tmp_path / "page.html")
    for row in (0, 2 * count - 1):
        tab.page.fill("#query", paths[row])
        expect(tab.page.locator("#selected .of, #selected .path span")).to_have_text(labels[row])
        tab.page.keyboard.press("Escape")
    assert not tab.said
    tab.page.close()


def test_what_it_says_is_what_numpy_says(run: Run) -> None:
    vectors, labels = blobs(600)
    facts = facts_of(run)
    mean = np.array([vectors[np.array(labels) == label].mean(axis=0) for label in labels])
    distance = np.linalg.norm(vectors - mean, axis=1)
    spread = {label: np.sqrt((distance[np.array(labels) == label] ** 2).mean()) for label in labels}
    assert {each.name: each.spread for each in facts.labels} == pytest.approx(spread, rel=1e-4)
    assert [each.count for each in facts.labels] == [100] * 6
    relative = distance / np.array([spread[label] for label in labels])
    (outliers,) = facts.listings
    assert [each.image for each in outliers.entries[:50]] == np.argsort(-relative, kind="stable")[:50].tolist()
    assert [facts.labels[each].name for each in facts.label.tolist()] == labels
    assert [(each.status, each.count, len(each.examples)) for each in facts.causes] == [
        ("undecodable", 2, 2),
        ("too_large", 1, 1),
    ]


def test_a_layout_keeps_neighbours_and_is_the_same_again() -> None:
    vectors, _ = blobs(240)
    place = lay_out(vectors[::2])
    assert place
    points = place(vectors)
    assert points.shape == (240, 2)
    kept = trustworthiness(vectors, points, n_neighbors=12)
    assert kept > 0.9
    measured = trust.trustworthiness(vectors, points, judged=240)
    assert measured == pytest.approx(kept, abs=1e-4), "as benchmarks do; only two equal vectors come in another order"
    again = lay_out(vectors[::2])
    assert again
    assert np.array_equal(points, again(vectors))
    assert lay_out(vectors[:5]) is None
    assert lay_out(vectors[:, :1]) is None
    assert lay_out(np.ones((20, 3), np.float32)) is None


def test_the_page_of_a_run_is_the_same_again(run: Run, page: Path) -> None:
    assert page_of(run) == page.read_bytes()


def test_runs_are_compared(run: Run) -> None:
    """Those that another model made are turned as SciPy turns them."""
    vectors, labels = blobs(600)
    random = np.random.default_rng(3)
    turn = np.linalg.qr(random.normal(size=(12, 12)))[0].astype(np.float32)
    later = vectors @ turn + 5
    later[40] += 9
    paths = paths_of(labels)
    labels[50] = "other"
    kept = slice(10, None)
    other = publish(
        run.store,
        SECOND,
        ["new.jpg", *paths[kept]],
        ["new", *labels[kept]],
        np.concatenate([later[:1], later[kept]]),
    )
    point_latest(run.store, run.id)
    facts = compare(facts_of(other), run)
    moved, relabelled, came, gone, _ = facts.listings
    names = facts.paths.to_pylist()
    assert names[moved.entries[0].image] == paths[40]
    assert float(moved.entries[1].value) < 0.05
    assert [(names[each.image], each.value) for each in relabelled.entries] == [(paths[50], "fruit 0 → other")]
    assert [names[each.image] for each in came.entries] == ["new.jpg"]
    assert [each.image for each in gone.entries] == paths[:10]
    since = facts.groupings[-1]
    assert [since.names[each] for each in since.group[[0, names.index(paths[50]), -1]]] == [
        "new",
        "another label",
        "there before",
    ]
    assert np.bincount(since.group).tolist() == [1, 1, 589]
    old, new = vectors[10:], later[10:]
    centred = old - old.mean(axis=0), new - new.mean(axis=0)
    assert aligned(old, new) == pytest.approx(
        centred[0] @ orthogonal_procrustes(*centred)[0] + new.mean(axis=0), abs=1e-3
    )


def test_explore_writes_beside_the_report_or_where_it_is_told(run: Run, tmp_path: Path) -> None:
    out = run.store.url
    told = json.loads(fruitpipe("explore", out, "--json").stdout)
    assert told["page"] == run.path("explore.html")
    assert not find_garbage(run.store).others
    file = tmp_path / "page.html"
    assert str(file) in fruitpipe("explore", out, run.id, "-o", file).stdout
    assert file.read_bytes() == Path(told["page"]).read_bytes()
    browser = os.environ | {"BROWSER": "true %s"}
    assert command.process("open", out, variables=browser).stdout.strip() == told["page"]
    run.store.delete(layout.explore(run.id))
    assert "has no page" in one_line_error(fruitpipe("open", out, code=2))


def test_what_is_damaged_is_told_in_a_line(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.store.url, tmp_path / "out")
    (part,) = (tmp_path / "out/runs" / run.id / "vectors").iterdir()
    part.write_bytes(part.read_bytes()[:-100])
    assert "is damaged or missing" in one_line_error(fruitpipe("explore", tmp_path / "out", run.id, code=1))
    assert "no published run" in one_line_error(fruitpipe("explore", tmp_path / "out", "x", code=2))


def test_a_published_file_with_another_byte_in_its_footer_is_read_or_named(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.store.url, tmp_path / "out")
    copied = open_run(LocalStore(str(tmp_path / "out")), run.id)
    (part,) = (tmp_path / "out/runs" / run.id / "vectors").iterdir()
    for file, read in (
        (tmp_path / "out" / layout.failures(run.id), causes),
        (part, lambda run: run.vector_parts.table(0, ["path", "label", "vector"])),
    ):
        said = []
        for data in footers(file.read_bytes()):
            file.write_bytes(data)
            try:
                read(copied)
            except FruitpipeError as error:
                said.append(str(error))
        assert said
        assert all(file.name in each for each in said)


def test_a_result_that_cannot_be_written_is_told_before_the_page_is_made(run: Run, tmp_path: Path) -> None:
    read_only = OSError(errno.EROFS, os.strerror(errno.EROFS))
    with patch.object(LocalStore, "swap", side_effect=read_only):
        with patch("fruitpipe.explore.page.page_of") as made:
            said = one_line_error(fruitpipe("explore", run.store.url, code=2))
        assert not made.called
        assert said.endswith("`-o page.html`.")
        fruitpipe("explore", run.store.url, "-o", tmp_path / "page.html")


def test_pages_of_a_bucket_are_copied_to_where_nobody_else_looks(
    run: Run, admin: Any, s3: S3Config, server: Server
) -> None:
    store = open_store(f"s3://{BUCKET}/explore", s3)
    for name, _ in run.store.names(""):
        store.put(name, run.store.get(name))
    copied = open_run(store, run.id)
    add_page(copied)
    path = page_on_disk(copied)
    assert path.read_bytes() == page_of(run)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    shutil.rmtree(path.parent)


@pytest.fixture
def few(fruits: Path, tmp_path: Path) -> Path:
    """A folder of 20 photographs."""
    for path in sorted(fruits.rglob("*.jpg"))[::16]:
        target = tmp_path / "in" / path.relative_to(fruits)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return tmp_path / "in"


def test_a_run_that_is_told_to_writes_the_page(few: Path, tmp_path: Path) -> None:
    settings = [part for each in (command.BACKBONE, "explore=true", "neighbours.k=5") for part in ("--set", each)]
    told = fruitpipe("run", few, tmp_path / "out", *settings).stdout
    assert told.splitlines()[-1] == f"next: fruitpipe open {tmp_path / 'out'}"
    done = open_run(LocalStore(str(tmp_path / "out")))
    assert Path(done.path("explore.html")).read_bytes() == page_of(done)
    assert "Near-duplicates" in Path(done.path("explore.html")).read_text(), (
        "neighbours are judged before it is published"
    )
    assert 'href="explore.html"' in Path(done.path("report.html")).read_text()


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same images without failures, with their 15 nearest by cosine."""
    store = LocalStore(str(tmp_path_factory.mktemp("judged") / "out"))
    store.create()
    vectors, labels = blobs(600)
    vectors[100:103] = vectors[103]
    vectors[300] = vectors[301]
    done = publish(store, FIRST, paths_of(labels), labels, vectors)
    find_nearest(done, 15)
    return done


def test_nearest_within_all_images_are_the_nearest(judged: Run, tmp_path: Path) -> None:
    """As the benchmark finds them, within fewer."""
    shutil.copytree(judged.store.location(""), tmp_path / "out")
    copied = open_run(LocalStore(str(tmp_path / "out")))
    (part,) = (tmp_path / "out").glob("runs/*/neighbours/*/*.parquet")
    expected = pq.read_table(part)
    part.unlink()
    find_nearest(copied, 15, within=judged.manifest.counts.images)
    assert pq.read_table(part).equals(expected)


@pytest.fixture
def judged_tab(browser: Browser, judged: Run, tmp_path: Path) -> Iterator[Tab]:
    (tmp_path / "page.html").write_bytes(page_of(judged))
    opened = Tab(browser, tmp_path / "page.html")
    yield opened
    assert not opened.said
    assert opened.asked == [opened.own]
    opened.page.close()


def shown_nearest(tab: Tab, row: int) -> tuple[str, list[tuple[int, float]]]:
    """What the page says that the nearest images of one are, and by what."""
    tab.page.evaluate(
        """(row) => {
            const line = document.createElement("button");
            line.dataset.row = row;
            document.body.append(line);
            line.click();
            line.remove();
        }""",
        row,
    )
    lines = tab.page.locator("#image [data-row]").all()
    found = [(int(line.get_attribute("data-row") or -1), float(line.locator(".value").inner_text())) for line in lines]
    return tab.page.inner_text("#image h4"), found


@pytest.mark.slow
@pytest.mark.parametrize("room", [1000, 600, 599, 200])
def test_the_nearest_are_those_that_the_run_found_as_far_as_there_is_room(
    browser: Browser, judged: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    """As scikit-learn finds them, by cosine; of all images, or of those that are listed and some between."""
    monkeypatch.setattr("fruitpipe.explore.nearest.ROOM", room)
    monkeypatch.setattr("fruitpipe.explore.facts.MOST_LISTED", 20)
    monkeypatch.setattr("fruitpipe.explore.judgement.MOST_LISTED", 20)
    (tmp_path / "page.html").write_bytes(page_of(judged))
    tab = Tab(browser, tmp_path / "page.html")
    vectors, _ = blobs(600)
    vectors[100:103] = vectors[103]
    vectors[300] = vectors[301]
    far = cosine_distances(vectors)
    np.fill_diagonal(far, np.inf)
    listed = tab.page.locator("#lists [data-row]").evaluate_all("(lines) => lines.map((line) => +line.dataset.row)")
    exact = 0
    for row in sorted({0, 1, 2, 100, 299, 301, 598, 599, *range(7, 600, 41), *listed[::9]}):
        by, found = shown_nearest(tab, row)
        if "exactly, by cosine of all 12 components" in by:
            exact += 1
            nearest = np.sort(far[row])[:12]
            assert len(found) == 12
            assert far[row][[each for each, _ in found]] == pytest.approx(nearest, abs=1e-5)
            assert [value for _, value in found] == pytest.approx(nearest, abs=0.01)
        else:
            assert by == "Nearest, by 12 of 12 components"
            assert room < 600
            assert row not in listed
    assert exact >= len(set(listed[::9]))
    assert not tab.said
    tab.page.close()


@pytest.mark.slow
def test_groups_and_ranges_are_shown_alone(judged_tab: Tab, judged: Run, tmp_path: Path) -> None:
    facts = judge(facts_of(judged), judged)
    page = judged_tab.page
    for grouping in facts.groupings:
        page.select_option("#colour", label=grouping.title)
        counts = np.bincount(grouping.group, minlength=len(grouping.names)).tolist()
        lines = page.locator("#legend .entry")
        told = [(line.locator(".name").inner_text(), line.locator(".value").inner_text()) for line in lines.all()]
        assert told == [(name, str(count)) for name, count in zip(grouping.names, counts, strict=True)]
        page.click("#legend [data-group='0']")
        assert judged_tab.status() == f"{counts[0]} of 600 images"
        page.keyboard.press("v")
        chosen = [row for row, there in zip(rows_of(blobs(600)[1]), grouping.group == 0, strict=True) if there]
        found = judged_tab.csv(tmp_path / "chosen.csv")
        assert [(path.removeprefix("'"), label) for path, label in found] == chosen
        page.click("#tab-labels")
        page.click("#legend [data-group='']")
        assert judged_tab.status() == "600 images"
    for measure in facts.measures:
        page.select_option("#colour", label=measure.title)
        told = [int(each) for each in page.locator("#legend .entry .value").all_inner_texts()]
        expected = np.histogram(measure.levels, np.arange(11) * 25.5)[0][::-1]
        assert told == expected[expected > 0].tolist()
        page.locator("#legend .entry").first.click()
        assert judged_tab.status() == f"{told[0]} of 600 images"
        page.click("#labels [data-label='3']")
        highest = measure.levels >= 25.5 * (9 - int(np.argmax(expected > 0)))
        assert judged_tab.status() == f"{np.count_nonzero(highest & (facts.label == 3))} of 600 images"
        page.keyboard.press("Escape")
        page.keyboard.press("Escape")
        assert judged_tab.status() == "600 images"


def test_clusters_are_the_same_again_and_keep_to_what_is_apart() -> None:
    """Six groups of vectors, far from one another: no cluster has images of two."""
    vectors, _ = blobs(600, seed=4)
    vectors[2] = vectors[3]
    own = np.arange(600) * 6 // 600
    found = cluster(vectors[::2])(vectors)
    assert 6 <= len(set(found.tolist())) <= 12
    assert all(len(set(own[found == each].tolist())) == 1 for each in set(found.tolist()))
    assert np.array_equal(found, cluster(vectors[::2])(vectors))
    numbered, names = by_size(found, own, [f"fruit {each}" for each in range(6)])
    sizes = np.bincount(numbered)
    assert sizes.tolist() == sorted(sizes.tolist(), reverse=True)
    for number, name in enumerate(names):
        assert name == f"{number + 1}: 100% fruit {own[numbered == number][0]}"
    assert set(cluster(np.ones((9, 3), np.float32))(np.ones((9, 3), np.float32)).tolist()) == {0}


LATE = """
    from pathlib import Path

    from fruitpipe.storage import layout

    class Late:
        \"\"\"A stage that fails until there is a file, and puts a folder where the page belongs.\"\"\"

        def wanted(self, config):
            return True

        def run(self, context):
            if not Path({flag!r}).exists():
                Path(context.job.store.location(layout.explore(context.job.id))).mkdir()
                raise RuntimeError("token=Zm9vYmFyMTIzNDU2Nzg5 is\\nno key")
"""


def test_what_comes_after_the_vectors_may_fail_and_is_tried_again(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A further stage that raises, and a page that cannot be written: the vectors are published."""
    (tmp_path / "site").mkdir()
    flag, out = tmp_path / "mended", tmp_path / "out"
    install(
        tmp_path / "site",
        "late_stage",
        LATE.replace("{flag!r}", repr(str(flag))),
        {"fruitpipe.stages": {"late": "late_stage:Late"}},
        monkeypatch,
    )
    settings = [part for each in (command.BACKBONE, "explore=true") for part in ("--set", each)]
    told = fruitpipe("run", few, out, *settings).stdout
    assert told.splitlines()[-1] == f"next: fruitpipe show {out}"
    late, page = (line for line in told.splitlines() if line.startswith("note: "))
    assert "late failed, but the vectors are whole; the same command tries it again" in late
    assert "Zm9v" not in told
    first = command.manifest(out)
    assert first["unfinished"] == ["late", "explore"]
    assert f"`fruitpipe explore {out} {first['run']}` makes the page" in page
    assert "irectory" in page
    folder = out / "runs" / first["run"]
    assert not (folder / "explore.html").is_file()
    assert 'href="explore.html"' not in (folder / "report.html").read_text()
    assert command.vectors(out).num_rows == 20

    flag.touch()
    told = fruitpipe("run", few, out, *settings).stdout
    again = command.manifest(out)
    assert again["run"] != first["run"]
    assert again["unfinished"] == again["warnings"] == []
    assert told.splitlines()[-1] == f"next: fruitpipe open {out}"
    assert command.same_vectors(command.vectors(out), command.vectors(out, first["run"]))
    assert "nothing to do" in fruitpipe("run", few, out, *settings).stdout
