"""The page of all images: how long it takes to make, how large it is, and how fast it answers in headless Chromium.

Of synthetic vectors around means, or of a published run. With --layouts, also what else could lay them out: seconds,
and trustworthiness with 12 neighbours, of those of openTSNE, umap-learn and pacmap that are installed; of more than
100,000 images, only what the page does.

With --mislabels, 20 of some images are put into the folder of another label, and somebody looks for them on the page:
how many clicks until all are listed, and until they are in a file, and how many others are there with them.

    python benchmarks/explore.py --count 1000000
    python benchmarks/explore.py --result OUT --layouts 20000
    python benchmarks/explore.py --mislabels IMAGES
"""

from __future__ import annotations

import argparse
import csv
import resource
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from common import fruitpipe, output, timed
from numpy.typing import NDArray
from planted import listed, swapped
from playwright.sync_api import Page, sync_playwright
from trust import trustworthiness

from fruitpipe.explore.facts import ROWS, blocks
from fruitpipe.explore.layout2d import COMPONENTS, LANDMARKS, lay_out
from fruitpipe.result.runs import Run, open_run
from fruitpipe.storage.store import LocalStore
from fruitpipe.tasks.reduce import spread

sys.path.append(str(Path(__file__).parents[1] / "tests"))
JUDGED = 1000
"""Points whose neighbours are looked at, among all: for all, it would take their number squared."""
MANY = 100_000
MOVES = 200
WITHIN = 8192
"""Images among which neighbours are looked for, some more than there are of a label."""
WRONG = 20
"""Labels that are planted."""
Vectors = NDArray[np.float32]


def synthetic(folder: Path, count: int, components: int) -> Run:
    """A published run of `count` vectors around the means of 131 labels, with neighbours."""
    from published import find_nearest, publish

    random = np.random.default_rng(0)
    label = np.sort(random.integers(0, 131, count))
    variance = np.exp(-np.arange(components) / 20)
    means = 6 * random.normal(size=(131, components)) * variance
    vectors = random.normal(size=(count, components)).astype(np.float32)
    vectors *= variance
    vectors += means[label]
    labels = [f"label {number}" for number in label.tolist()]
    paths = [f"images/{name}/{row:07}_100.jpg" for row, name in enumerate(labels)]
    store = LocalStore(str(folder / "out"))
    store.create()
    run = publish(store, "20261127-120000-0000", paths, labels, vectors)
    find_nearest(run, 12, within=WITHIN)
    return run


def layouts(vectors: Vectors) -> None:
    """Print how long layouts take, and how well they keep neighbours."""

    def pacmap(seen: Vectors) -> Vectors:
        from pacmap import PaCMAP

        return np.asarray(PaCMAP(random_state=0, apply_pca=False).fit_transform(seen))

    def umap(seen: Vectors) -> Vectors:
        from umap import UMAP

        return np.asarray(UMAP(random_state=0).fit_transform(seen))

    def ours(seen: Vectors) -> Vectors:
        place = lay_out(seen[spread(len(seen), LANDMARKS)])
        assert place
        return np.concatenate([place(seen[start : start + ROWS]) for start in range(0, len(seen), ROWS)])

    def opentsne(seen: Vectors) -> Vectors:
        from openTSNE import TSNE

        return np.asarray(TSNE(neighbors="exact", random_state=0, n_jobs=1).fit(seen))

    contenders: dict[str, tuple[str, Callable[[Vectors], Vectors]]] = {
        "the page": ("sklearn", ours),
        "openTSNE": ("openTSNE", opentsne),
        "pacmap": ("pacmap", pacmap),
        "umap-learn": ("umap", umap),
    }
    seen = np.ascontiguousarray(vectors[:, :COMPONENTS])
    print(f"\n{'layout':<16}{'images':>9}{'seconds':>9}{'CPU':>9}{'trustworthiness':>17}")
    for name, (package, fit) in contenders.items():
        if find_spec(package) is None or (fit is not ours and len(seen) > MANY):
            continue
        wall, busy = time.perf_counter(), time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            points = fit(seen)
        wall, busy = time.perf_counter() - wall, time.process_time() - busy
        kept = trustworthiness(seen, np.asarray(points, np.float32), JUDGED)
        print(f"{name:<16}{len(seen):>9}{wall:>9.1f}{busy:>9.1f}{kept:>17.4f}", flush=True)


@contextmanager
def opened(file: Path) -> Iterator[Page]:
    """The page in headless Chromium, which draws by the CPU."""
    with sync_playwright() as playwright:
        found = shutil.which("chromium") or "chromium"
        options = ["--no-sandbox", "--disable-dev-shm-usage", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
        browser = playwright.chromium.launch(executable_path=found, args=options)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(file.as_uri(), timeout=120_000)
        page.wait_for_selector("html[data-ready]", state="attached", timeout=120_000)
        yield page
        browser.close()


def in_browser(file: Path) -> None:
    """Print how fast the page is there, and how fast it names what is pointed at."""
    with opened(file) as page:
        print(f"{'drawn, and ready to be pointed at':<40}{page.evaluate('performance.now()') / 1000:>9.1f} s")
        taken = page.evaluate(
            """(moves) => {
                const canvas = document.getElementById("canvas"), box = canvas.getBoundingClientRect(), taken = [];
                for (let number = 0; number < moves; number++) {
                    const place = { clientX: box.x + (box.width * ((number * 37) % 101)) / 101,
                                    clientY: box.y + (box.height * ((number * 53) % 97)) / 97 };
                    const start = performance.now();
                    canvas.dispatchEvent(new PointerEvent("pointermove", place));
                    document.getElementById("tip").getBoundingClientRect();
                    taken.push(performance.now() - start);
                }
                return taken;
            }""",
            MOVES,
        )
        print(f"{'pointing at an image, median and worst':<40}{np.median(taken):>9.1f} ms{max(taken):>9.1f} ms")
        start = time.perf_counter()
        page.focus("#canvas")
        page.keyboard.press("Enter")
        page.wait_for_selector("#image ol")
        print(f"{'facts of an image and the nearest to it':<40}{1000 * (time.perf_counter() - start):>9.0f} ms")


def look_for_mislabels(images: Path, folder: Path) -> None:
    """Plant wrong labels, and print what it takes to find them on the page."""
    wrong = swapped(images, folder / "images", WRONG / len(listed(images)))
    output(fruitpipe(folder / "images", folder / "out", "--set", "neighbours.k=12", "--set", "explore=true"))
    run = open_run(LocalStore(str(folder / "out")))
    print(f"{'images, and wrong labels among them':<40}{run.manifest.counts.ok:>9}{len(wrong):>9}")
    with opened(Path(run.path("explore.html"))) as page:
        clicks = 0

        def click(selector: str) -> None:
            nonlocal clicks
            clicks += 1
            page.click(selector)

        def names(title: str) -> set[str]:
            """Of the files in a list."""
            lists = f"#lists h2:text-is('{title}') ~ ol"
            return {path.rpartition("/")[2] for path in page.locator(lists).first.locator(".path").all_inner_texts()}

        def say(what: str, found: set[str]) -> None:
            print(f"{what:<40}{clicks:>9}{len(found & wrong):>9}{len(found - wrong):>9}", flush=True)

        print(f"\n{'on the page':<40}{'clicks':>9}{'found':>9}{'others':>9}")
        click("#tab-lists")
        say("Lists: doubtful labels", names("Doubtful labels"))
        say("Lists: outliers, without neighbours", names("Outliers"))
        clicks = 2  # to open the list of colours, and choose one
        page.select_option("#colour", label="doubt about the label")
        for number in range(1, page.locator("#legend .entry").count()):  # all but the lowest range
            click(f"#legend li:nth-child({number}) .entry")
        click("#inview")
        with page.expect_download() as download:
            click("#csv")
        with download.value.path().open(newline="") as file:
            found = {row["path"].rpartition("/")[2] for row in csv.DictReader(file)}
        say("Colour: doubt, its ranges, CSV", found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--result", help="folder of results, whose latest run is shown")
    parser.add_argument("--count", type=int, default=20_622, help="synthetic images, where no result is given")
    parser.add_argument("--components", type=int, default=128, help="of these")
    parser.add_argument("--layouts", type=int, metavar="N", help="compare layouts, on N of the images")
    parser.add_argument("--mislabels", metavar="IMAGES", type=Path, help="look for wrong labels among these images")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fruitpipe-explore-") as folder:
        if options.mislabels:
            return look_for_mislabels(options.mislabels, Path(folder))
        given = options.result and open_run(LocalStore(options.result))
        run = given or synthetic(Path(folder), options.count, options.components)
        file = Path(folder, "explore.html")
        seconds = timed([sys.executable, "-m", "fruitpipe", "explore", run.store.url, run.id, "-o", str(file)])
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(f"{'images':<40}{run.manifest.counts.ok:>9}")
        print(f"{'to make the page, and CPU time of that':<40}{seconds:>9.1f} s{used.ru_utime:>9.1f} s")
        print(f"{'peak memory of that':<40}{used.ru_maxrss / 1e3:>9.0f} MB")
        print(f"{'size of the page':<40}{file.stat().st_size / 1e6:>9.1f} MB", flush=True)
        in_browser(file)
        if options.layouts:
            vectors = np.concatenate([vectors for _, _, vectors in blocks(run)])
            layouts(vectors[spread(len(vectors), options.layouts)])


if __name__ == "__main__":
    main()
