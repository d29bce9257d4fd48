"""fruitpipe against the Spark notebook that it replaces: the whole job, or with --features-only its longest stage.

The whole job is timed from outside, start-up included. The feature stage is what either side says of itself: in the
notebook the cell that writes the features, which starts Python workers and imports TensorFlow in them; in fruitpipe
`featurize` of the manifest, whose workers were started meanwhile to the listing (their imports count as `start`).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from common import Row, count_images, fruitpipe, output, race, report, subset, timed

SCRIPT = Path(__file__).parent / "peers" / "notebook_job.py"
TARGETS = {"notebook": 4.0, "notebook, features": 5.5}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of images, searched recursively")
    parser.add_argument("--count", type=int, default=2316, help="take this many, evenly spaced [%(default)s]")
    parser.add_argument("--rounds", type=int, default=1, help="times that each side runs [%(default)s]")
    parser.add_argument("--components", type=int, default=200, help="of the PCA, for both [%(default)s]")
    parser.add_argument("--features-only", action="store_true", help="compare the feature stages alone")
    parser.add_argument("--tuned", action="store_true", help="a notebook whose author has measured and improved it")
    options = parser.parse_args()
    extra = ["--tuned"] if options.tuned else []
    name = "notebook, features" if options.features_only else "notebook"
    with tempfile.TemporaryDirectory(prefix="fruitpipe-benchmark-") as scratch:
        images = subset(options.images, options.count, Path(scratch, "images"))

        def ours(folder: Path, out: Path) -> float:
            command = fruitpipe(folder, out, "--set", f"pca.components={options.components}")
            return featurize_seconds(command, out) if options.features_only else timed(command)

        def theirs(folder: Path, out: Path) -> float:
            command = [sys.executable, str(SCRIPT), str(folder), str(out), str(options.components), *extra]
            return float(output([*command, "--features-only"])) if options.features_only else timed(command)

        contenders = {"fruitpipe": ours, name: theirs}
        few = subset(options.images, 40, Path(scratch, "few"))
        seconds = race(contenders, images, few, Path(scratch), options.rounds)
        report([Row(name, seconds["fruitpipe"], seconds[name], count_images(images), TARGETS[name])])


def featurize_seconds(command: list[str], out: Path) -> float:
    run = json.loads(output(command))["run"]
    manifest = json.loads((out / "runs" / run / "manifest.json").read_text())
    return float(manifest["timings"]["featurize"])


if __name__ == "__main__":
    main()
