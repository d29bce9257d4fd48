"""Thumbnails: what they look like, that nothing else changes by them, how they live and die, what the page shows."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import fruitpipe, one_line_error, run, same_vectors, vectors
from numpy.typing import NDArray
from parts import Image as Row
from parts import put_part
from PIL import Image, ImageDraw
from test_compaction import Crash, Failing, parts_of
from test_crash import held, running
from test_explore import Tab, browser, launch, tab

from fruitpipe.config import ImageConfig
from fruitpipe.errors import FruitpipeError
from fruitpipe.explore import pictures
from fruitpipe.explore.facts import Facts, facts_of
from fruitpipe.explore.page import page_of
from fruitpipe.explore.pictures import Pictures, pictures_of
from fruitpipe.result.compaction import compact
from fruitpipe.result.garbage import collect, find_garbage
from fruitpipe.result.runs import Run, open_run
from fruitpipe.storage import layout
from fruitpipe.storage.store import LocalStore, Store
from fruitpipe.tasks.feature_part import read_facts
from fruitpipe.vision.bad_image import BadImage
from fruitpipe.vision.thumbnails import Sheet, across, cells, shape_of

__all__ = ["browser", "launch", "tab"]  # fixtures

SIDE, SETTING = 48, "thumbnails=48"
ALIKE, ON_AVERAGE = 15, 7
"""Mean difference of levels between a picture and its thumbnail, after WebP twice: at most, and of many."""
ROOM = 10_000_000
DIGEST = "d" * 64


def photographs(data: Path, folder: Path) -> Path:
    """40 real photographs of 8 fruits, one large and upright by its EXIF alone, one wide, and one that is damaged."""
    for path in sorted((data / "fruits-360" / "Sample").rglob("*.jpg"))[::4][:40]:
        target = folder / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    cat = Image.open(data / "imagenet-check" / "cat_720p.jpg")
    exif = Image.Exif()
    exif[274], exif[270] = 6, "a secret place"
    cat.save(folder / "cat.jpg", exif=exif)
    Image.open(data / "imagenet-check" / "parrot.jpg").resize((400, 80)).save(folder / "wide.png")
    (folder / "broken.jpg").write_bytes(b"no picture")
    return folder


def upright(path: str) -> Image.Image:
    image = Image.open(path).convert("RGB")
    return image.transpose(Image.Transpose.ROTATE_270) if path.endswith("cat.jpg") else image


def far(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    return float(np.abs(one.astype(float) - other).mean())


@pytest.fixture(scope="module")
def shown(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with thumbnails."""
    images, out = photographs(data, tmp_path_factory.mktemp("images")), tmp_path_factory.mktemp("shown")
    run(images, out, SETTING)
    return open_run(LocalStore(str(out)))


@pytest.fixture
def copied(shown: Run, tmp_path: Path) -> Run:
    """The same, to be changed."""
    shutil.copytree(shown.store.url, tmp_path / "out")
    return open_run(LocalStore(str(tmp_path / "out")))


def sheets_of(store: Store) -> list[str]:
    return sorted(name for name, _ in store.names(layout.FEATURES) if layout.of_thumbnails(name))


def seen_in(found: Pictures, facts: Facts) -> dict[str, NDArray[np.uint8]]:
    """Pictures of a page by path, as another reader of WebP sees them."""
    opened = [np.asarray(cv2_read(data)) for data in found.sheets]
    wide, shown = across(pictures.SHEET), {}
    for place, (row, (width, height)) in enumerate(zip(found.rows.tolist(), found.shapes.tolist(), strict=True)):
        sheet, cell = divmod(place, pictures.SHEET)
        top, left = (each * found.side for each in divmod(cell, wide))
        shown[facts.paths[row].as_py()] = opened[sheet][top : top + height, left : left + width]
    return shown


def cv2_read(data: bytes) -> NDArray[np.uint8]:
    import cv2

    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def test_thumbnails_look_like_the_images_and_hold_nothing_else(shown: Run) -> None:
    facts = facts_of(shown)
    found = pictures_of(shown, facts, ROOM)
    assert found
    seen = seen_in(found, facts)
    assert len(seen) == shown.manifest.counts.ok == 42
    assert not any(path.endswith("broken.jpg") for path in seen)
    shapes = {Path(path).name: (each.shape[1], each.shape[0]) for path, each in seen.items()}
    assert shapes["wide.png"] == (48, 10)
    assert shapes["cat.jpg"] == (round(48 * 720 / 1280), 48)
    apart = []
    for path, each in seen.items():
        original = upright(path).resize((each.shape[1], each.shape[0]), Image.Resampling.BILINEAR)
        apart.append(far(each, np.asarray(original)))
    assert max(apart) < ALIKE
    assert np.mean(apart) < ON_AVERAGE
    for name in sheets_of(shown.store):
        data = shown.store.get(name)
        assert b"secret" not in data
        assert data[8:16] == b"WEBPVP8 ", "a picture without further chunks, where metadata would be"
        assert struct.unpack_from("<I", data, 4)[0] + 8 == len(data)


def test_vectors_and_features_are_the_same_to_the_bit(shown: Run, tmp_path: Path) -> None:
    images = Path(shown.manifest.config.inputs[0])
    run(images, tmp_path)
    assert same_vectors(vectors(tmp_path), vectors(Path(shown.store.url)))
    plain = LocalStore(str(tmp_path))
    assert parts_of(plain) == parts_of(shown.store)
    assert all(plain.get(name) == shown.store.get(name) for name in parts_of(plain))
    assert not sheets_of(plain)
    # Features that are known are not made again, and the run says of how many images that is so.
    document = run(images, tmp_path, SETTING)
    assert document["plan"]["known"] == 42
    assert "42 images have no thumbnails, as features are not made again for them" in document["warnings"]
    again = open_run(plain)
    assert pictures_of(again, facts_of(again), ROOM) is None
    assert page_of(again)


@pytest.mark.slow
def test_after_a_kill_each_part_has_its_thumbnails(fruits: Path, tmp_path: Path) -> None:
    settings = ("spark.master=local[1]", SETTING)
    with running(fruits, tmp_path, settings=settings) as process, held(process):
        process.kill()
        process.wait()
    store = LocalStore(str(tmp_path))
    of = {found[0] for name in sheets_of(store) if (found := layout.of_thumbnails(name))}
    assert set(parts_of(store)) <= of
    document = run(fruits, tmp_path, *settings)
    assert 0 < document["plan"]["known"] < 320
    done = open_run(store)
    facts = facts_of(done)
    found = pictures_of(done, facts, ROOM)
    assert found
    for path, each in seen_in(found, facts).items():
        assert (
            far(each, np.asarray(Image.open(path).convert("RGB").resize((48, 48), Image.Resampling.BILINEAR))) < ALIKE
        )
    assert len(found.rows) == 320


def test_an_image_that_changed_is_shown_as_it_is_now(data: Path, tmp_path: Path) -> None:
    images, out = photographs(data, tmp_path / "in"), tmp_path / "out"
    run(images, out, SETTING)
    changed = images / "wide.png"
    Image.open(data / "imagenet-check" / "hot_dog.jpg").resize((300, 300)).save(changed)
    run(images, out, SETTING)
    now = open_run(LocalStore(str(out)))
    facts = facts_of(now)
    found = pictures_of(now, facts, ROOM)
    assert found
    assert len(found.rows) == 42
    seen = seen_in(found, facts)[str(changed)]
    assert far(seen, np.asarray(upright(str(changed)).resize((48, 48), Image.Resampling.BILINEAR))) < ALIKE


def test_a_page_with_little_room_shows_listed_images_first(shown: Run) -> None:
    facts = facts_of(shown)
    facts.listings[0].entries[3:] = []
    whole = pictures_of(shown, facts, ROOM)
    assert whole
    room = sum(map(len, whole.columns.values())) // 3
    few = pictures_of(shown, facts, room)
    assert few
    assert sum(map(len, few.columns.values())) <= room + 1000, "the sheet's empty cells, which here are most"
    assert {entry.image for entry in facts.listings[0].entries} <= set(few.rows.tolist())
    assert 3 < len(few.rows) < 42


# What somebody else may have put there


def bomb(data: bytes) -> bytes:
    """A WebP whose header promises the largest size there is."""
    return data[:26] + struct.pack("<HH", 16383, 16383) + data[30:]


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda _: b"",
        lambda data: data[:-200],
        bomb,
        lambda _: b"RIFF\0\0\0\0WEBPVP8X" + b"\xff" * 20,
        lambda _: b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
    ],
    ids=["empty", "cut", "a larger size", "a header", "a script"],
)
def test_what_is_no_sheet_gives_no_pictures_and_a_page_all_the_same(
    copied: Run, spoilt: Callable[[bytes], bytes]
) -> None:
    names = sheets_of(copied.store)
    for name in names:
        copied.store.put(name, spoilt(copied.store.get(name)))
    assert pictures_of(copied, facts_of(copied), ROOM) is None
    assert b"alert" not in page_of(copied)


def test_a_sheet_that_is_larger_than_any_is_not_read(copied: Run) -> None:
    name = sheets_of(copied.store)[0]
    with (Path(copied.store.url) / name).open("r+b") as file:
        file.truncate(layout.most_bytes(name) + 1)
    found = pictures_of(copied, facts_of(copied), ROOM)
    assert found is None or len(found.rows) < 42


@pytest.mark.parametrize("side", [8, 17, 112, "large", 48.5])
def test_a_side_that_is_none_is_refused(side: object, tmp_path: Path) -> None:
    done = fruitpipe("run", tmp_path, tmp_path / "out", "--set", f"thumbnails={side}", code=2)
    assert "thumbnails" in one_line_error(done)


@pytest.mark.parametrize("resize", ["stretch", "pad", "crop"])
@pytest.mark.parametrize("size", [(1, 1), (1, 100), (100, 1), (300, 200), (224, 224)])
def test_shapes_fit_into_their_cells(resize: Any, size: tuple[int, int]) -> None:
    shape = shape_of(*size, SIDE, ImageConfig(resize=resize))
    assert max(shape) == SIDE
    assert min(shape) >= 1
    assert shape == (SIDE, SIDE) or resize == "stretch"


# How they live and die


def drawn(number: int) -> Image.Image:
    """A picture of its own."""
    picture = Image.new("RGB", (SIDE, SIDE), 3 * (number * 37 % 256,))
    ImageDraw.Draw(picture).ellipse((8, 8, 40, 40), fill=3 * (number * 91 % 256,))
    return picture


def put_shown(store: Store, numbers: range) -> str:
    """A feature part and its thumbnails."""
    name = put_part(store, DIGEST, [Row(f"{number:06}") for number in numbers])
    sheet = Sheet(len(numbers), SIDE)
    for cell, number in enumerate(numbers):
        sheet.place(cell, drawn(number))
    store.put(layout.thumbnails(name, SIDE), sheet.encoded())
    return name


def are_right(store: Store) -> int:
    """Whether each part that has thumbnails has those of its images; how many images that are."""
    images = 0
    for name in sheets_of(store):
        part, side = layout.of_thumbnails(name) or ("", 0)
        facts = read_facts(store, part)
        if facts is None:
            continue  # gone, and they will go
        found = cells(store.get(name), len(facts), side)
        for path, cell in zip(facts["path"].to_pylist(), found, strict=True):
            assert far(cell, np.asarray(drawn(int(path)))) < ALIKE
        images += len(facts)
    return images


def test_compaction_merges_thumbnails_and_loses_none_by_a_crash(store: LocalStore, tmp_path: Path) -> None:
    for start in range(4):
        put_shown(store, range(start, 240, 4))
    for start in (1000, 2000):
        put_part(store, DIGEST, [Row(f"{number:06}") for number in range(start, start + 50)])
    for changes in count():
        copy = tmp_path / f"{changes}"
        shutil.copytree(store.root, copy)
        try:
            compact(Failing(str(copy), changes))
        except Crash:
            assert are_right(LocalStore(str(copy))) >= 240
            compact(LocalStore(str(copy)))
        crashed = LocalStore(str(copy))
        assert are_right(crashed) == 240
        assert len(sheets_of(crashed)) == 1
        assert len(parts_of(crashed)) == 2, "those without thumbnails are merged with one another"
        if changes > 20:
            break
    assert compact(crashed) == []


def test_a_damaged_sheet_ends_a_compaction_and_nothing_is_lost(store: LocalStore) -> None:
    put_shown(store, range(20))
    name = layout.thumbnails(put_shown(store, range(20, 40)), SIDE)
    store.put(name, store.get(name)[:100])
    with pytest.raises(FruitpipeError, match=f"{name} is damaged: delete it and run again"):
        compact(store)
    assert len(parts_of(store)) == len(sheets_of(store)) == 2


def test_thumbnails_go_with_their_part(copied: Run) -> None:
    assert not find_garbage(copied.store).objects
    lost = put_shown(copied.store, range(3))
    found = find_garbage(copied.store)
    assert [each.name for each in found.objects] == sorted([lost, layout.thumbnails(lost, SIDE)])
    assert not found.others
    collect(copied.store)
    assert set(sheets_of(copied.store)) == {layout.thumbnails(part, SIDE) for part in parts_of(copied.store)}


@pytest.mark.parametrize("number", [1, 2, 5, 256, 257])
def test_a_sheet_is_read_cell_by_cell(number: int) -> None:
    sheet = Sheet(number, SIDE)
    for cell in range(number):
        sheet.place(cell, drawn(cell))
    found = cells(sheet.encoded(), number, SIDE)
    assert found.shape == (number, SIDE, SIDE, 3)
    assert max(far(each, np.asarray(drawn(cell))) for cell, each in enumerate(found)) < ALIKE
    if number > 1:
        with pytest.raises(BadImage, match="not a WebP of 48 x 48 pixels"):
            cells(sheet.encoded(), 1, SIDE)


# In the browser


@pytest.fixture(scope="module")
def page(shown: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "explore.html"
    file.write_bytes(page_of(shown))
    return file


LEVELS = """(canvas) => [canvas.width, canvas.height, Array.from(
    canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data)]"""


def levels(tab: Tab, selector: str) -> NDArray[np.uint8]:
    """What a canvas shows."""
    drawn = tab.page.locator(f"{selector}[data-drawn]").first
    drawn.wait_for(state="attached")
    width, height, values = drawn.evaluate(LEVELS)
    found: NDArray[np.uint8] = np.array(values, np.uint8).reshape(height, width, 4)[..., :3]
    return found


@pytest.mark.slow
def test_pictures_are_shown_where_images_are(tab: Tab, shown: Run) -> None:
    facts = facts_of(shown)
    pictured = pictures_of(shown, facts, ROOM)
    assert pictured
    seen = seen_in(pictured, facts)
    paths = facts.paths.to_pylist()
    row = next(row for row, path in enumerate(paths) if path.endswith("cat.jpg"))
    tab.page.fill("#query", "cat.jpg")
    tab.page.click(f"#selected [data-row='{row}']")
    assert far(levels(tab, "#image .seen canvas"), seen[paths[row]]) < 2
    assert tab.page.get_attribute("#image .seen a", "href") == Path(paths[row]).as_uri()
    box = tab.page.locator("#image .seen canvas").bounding_box()
    assert box
    assert box["height"] == 144
    near = tab.page.locator("#image ol.tiles canvas[data-drawn]")
    near.nth(11).wait_for(state="attached")
    assert near.count() == 12
    ((x, y),) = tab.places()
    tab.page.locator("#canvas").hover(position={"x": x, "y": y})
    pointed = levels(tab, "#tip canvas")
    named = tab.page.inner_text("#tip b")
    assert far(pointed, next(each for path, each in seen.items() if path.endswith(named))) < 2
    tab.page.keyboard.press("Escape")
    tab.page.keyboard.press("Escape")
    tab.page.keyboard.press("Escape")
    tab.page.keyboard.press("v")
    tab.page.locator("#selected ol.tiles canvas[data-drawn]").nth(5).wait_for(state="attached")
    assert tab.page.locator("#selected ol.tiles canvas").count() == 42
    tab.page.click("#tab-lists")
    listed = tab.page.locator("#lists canvas[data-drawn]").first
    listed.wait_for()
    assert listed.get_attribute("data-picture") == tab.page.locator("#lists [data-row]").first.get_attribute("data-row")


@pytest.mark.slow
def test_few_points_in_view_are_pictures(tab: Tab) -> None:
    tab.page.wait_for_selector("#pictures[data-drawn='42']", state="attached")  # a function would be `eval` in the page
    assert (
        tab.page.evaluate(
            """() => {
            const canvas = document.getElementById("pictures");
            const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            return data.filter((each, place) => place % 4 === 3 && each === 255).length;
        }"""
        )
        > 42 * 20 * 20
    )
