"""fruitpipe against the same job written by hand in Daft and in Ray Data: images in, vectors out, start-up included.

All run the same flatbuffer on the same images, one instance for each core. Peers live in virtual environments of their
own, made here the first time.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import venv
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from common import Row, count_images, fruitpipe, race, report, subset, timed

from fruitpipe.backbones import resolve
from fruitpipe.config import Config, Environment

SCRIPTS = Path(__file__).parent / "peers"
SHARED = ("ai-edge-litert", "numpy", "pillow", "scikit-learn")
REQUIREMENTS = {
    "daft": ["daft==0.7.*", "pyarrow"],  # Daft 0.7 wants pyarrow < 26
    "ray": ["ray[data]==2.60.*", f"pyarrow=={version('pyarrow')}"],
}
TARGET = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of images, searched recursively")
    parser.add_argument("--count", type=int, help="take this many, evenly spaced [all]")
    parser.add_argument("--rounds", type=int, default=1, help="times that every contender runs [%(default)s]")
    parser.add_argument("--only", choices=REQUIREMENTS, help="compare with one peer")
    options = parser.parse_args()
    environment = Environment.read()
    network = resolve(Config(input="IMAGES", output="OUT"), environment).engine.source
    peers = [options.only] if options.only else list(REQUIREMENTS)
    pythons = {peer: install(peer, environment.cache / "benchmarks") for peer in peers}
    with tempfile.TemporaryDirectory(prefix="fruitpipe-benchmark-") as scratch:
        images = subset(options.images, options.count, Path(scratch, "images")).resolve()
        few = subset(options.images, 40, Path(scratch, "few"))

        def ours(folder: Path, out: Path) -> float:
            return timed(fruitpipe(folder, out))

        def theirs(peer: str) -> Callable[[Path, Path], float]:
            command = [str(pythons[peer]), str(SCRIPTS / f"{peer}_job.py")]
            # Daft's worker processes do not inherit sys.path, so they would not find `network`.
            return lambda folder, out: timed(
                [*command, str(folder), str(out), str(network)], PYTHONPATH=str(SCRIPTS), RAY_USAGE_STATS_ENABLED="0"
            )

        contenders = {"fruitpipe": ours} | {peer: theirs(peer) for peer in peers}
        seconds = race(contenders, images, few, Path(scratch), options.rounds)
        report(Row(peer, seconds["fruitpipe"], seconds[peer], count_images(images), TARGET) for peer in peers)


def install(peer: str, cache: Path) -> Path:
    """The Python of a peer's virtual environment."""
    folder = cache / f"{peer}-venv"
    if not (folder / "bin" / "python").exists():
        venv.create(folder, with_pip=True)
    # Quick where everything is there already; and an installation that was cut short goes on.
    pinned = [f"{name}=={version(name)}" for name in SHARED] + REQUIREMENTS[peer]
    subprocess.run([folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", *pinned], check=True)
    return folder / "bin" / "python"


if __name__ == "__main__":
    main()
