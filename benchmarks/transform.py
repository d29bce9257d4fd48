"""`fruitpipe transform` against the feature stage of a run over the same images: images per second, side by side.

The model is that of a run before both. Each is held against the one beside it, in turns, since the machine drifts.

    python benchmarks/transform.py IMAGES
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from common import Row, count_images, output, report, subset
from features import run_fruitpipe
from limit import Seconds, cached

from fruitpipe.result.runs import open_run
from fruitpipe.storage.store import LocalStore

PROGRAM = """
import sys, time
from fruitpipe.model.transform import transform_folder
began = time.perf_counter()
transform_folder(*sys.argv[1:])
print(time.perf_counter() - began)
"""


def transform(model: str, images: Path, out: Path) -> Seconds:
    """What the verb does, from the loading of the model to the file, and the whole of its process."""
    launched = time.perf_counter()
    working = float(output([sys.executable, "-c", PROGRAM, model, str(images), str(out)]))
    return Seconds(working, time.perf_counter() - launched)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of images")
    parser.add_argument("--count", type=int, default=8000, help="how many of them")
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", type=int, default=2, help="of Spark; transform takes all that this process may use")
    options = parser.parse_args()

    setting = f"backbone={options.backbone}"
    with tempfile.TemporaryDirectory(prefix="fruitpipe-transform-") as folder:
        images = subset(options.images, options.count, Path(folder, "images"))
        cached(images)
        first = Path(folder, "out")
        run_fruitpipe(images, first, options.cores, setting)
        model = open_run(LocalStore(str(first))).path("model")
        ours: list[Seconds] = []
        theirs: list[Seconds] = []
        for number in range(options.rounds):
            out, file = Path(folder, f"out-{number}"), Path(folder, f"{number}.parquet")
            if number % 2:
                ours.append(transform(model, images, file))
            theirs.append(run_fruitpipe(images, out, options.cores, setting))
            if not number % 2:
                ours.append(transform(model, images, file))
        count = count_images(images)

    print(f"transform, {options.backbone}, {count} images, {options.cores} cores")
    report(
        [
            Row(
                "a run's feature stage", [each.working for each in ours], [each.working for each in theirs], count, 0.9
            ),
            Row("… whole, with start-up", [each.whole for each in ours], [each.whole for each in theirs], count),
        ]
    )


if __name__ == "__main__":
    main()
