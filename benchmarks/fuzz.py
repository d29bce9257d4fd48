"""Damaged pictures for as long as you like, led by which of Pillow's and fruitpipe's code they reach (atheris).

None may crash a worker, and what is said to be cheap has to be: a decoder with no more memory than that decodes it too.

    python benchmarks/fuzz.py --minutes 30 [--corpus FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ATHERIS = "atheris==3.*"
LONGEST = 20_000
"""Bytes of a picture."""
SIDE = 224


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30, help="[%(default)s]")
    parser.add_argument("--corpus", type=Path, help="folder to begin with, and to add what is found to [temporary]")
    parser.add_argument("--report", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.report:
        fuzz(options.corpus, options.report, int(60 * options.minutes))
        return
    from fruitpipe.config import Environment

    library = Environment.read().cache / "benchmarks" / "atheris"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", "--target", str(library), ATHERIS]
    if not library.exists():
        subprocess.run(install, check=True)
    with tempfile.TemporaryDirectory(prefix="fruitpipe-fuzz-") as scratch:
        corpus, report = options.corpus or Path(scratch, "corpus"), Path(scratch, "report")
        corpus.mkdir(exist_ok=True)
        begin(corpus)
        again = [sys.executable, __file__, "--minutes", str(options.minutes)]
        path = os.pathsep.join([str(library), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [*again, "--corpus", str(corpus), "--report", str(report)],
            cwd=scratch,
            env=os.environ | {"PYTHONPATH": path},
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            print(done.stderr[-5000:])
        found = json.loads(report.read_text())
        print(", ".join(f"{name}: {count}" for name, count in found.items()))
        print("crashes: 0" if not done.returncode else f"ended with {done.returncode}: see above")
        raise SystemExit(done.returncode)


def begin(corpus: Path) -> None:
    """Fill a corpus with pictures of all kinds."""
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    import colours
    import hostile

    pictures = [case.data for case in colours.all_cases()] + [make() for _, make in hostile.CASES.values()]
    for number, data in enumerate(pictures):
        if 0 < len(data) <= LONGEST:
            (corpus / f"{number:04}").write_bytes(data)


def fuzz(corpus: Path, report: Path, seconds: int) -> None:
    """Decode pictures until the time is over or one of them crashes this process."""
    import atheris

    with atheris.instrument_imports(include=["PIL", "fruitpipe.vision"]):
        from fruitpipe.config import ImageConfig
        from fruitpipe.vision.bad_image import BadImage
        from fruitpipe.vision.cost import CHEAP, is_cheap
        from fruitpipe.vision.decode import decode
        from fruitpipe.vision.decoder import Decoder, decode_within_limits
        from fruitpipe.vision.formats import FORMATS  # noqa: F401 - to have all of Pillow's plug-ins instrumented

    Decoder.of_all = True
    small = ImageConfig(max_pixels=1_000_000, max_memory=CHEAP + (4 << 20), max_seconds=2)
    counts: Counter[str] = Counter()
    written = time.monotonic()

    def one(data: bytes) -> None:
        nonlocal written
        cheap, before = is_cheap(data, SIDE, small), time.process_time()
        try:
            (decode if cheap else decode_within_limits)(data, SIDE, small)
            outcome, reason = "ok", ""
        except BadImage as error:
            outcome, reason = error.status, str(error)
        counts["slowest cheap one, ms"] = max(
            counts["slowest cheap one, ms"], round(1000 * (time.process_time() - before)) if cheap else 0
        )
        counts["pictures"] += 1
        counts["cheap"] += cheap
        counts[outcome] += 1
        counts["decoders crashed"] += "crash" in reason
        if cheap and counts["cheap"] % 10 == 0:
            try:
                decode_within_limits(data, SIDE, small)
            except BadImage as error:
                if "max_memory" in str(error) or error.status == "too_slow":
                    raise RuntimeError(f"not as cheap as it is said to be: {error}") from error
        if time.monotonic() - written > 1:
            written = time.monotonic()
            report.write_text(json.dumps(counts))

    limits = [f"-max_total_time={seconds}", f"-max_len={LONGEST}", "-timeout=300", "-rss_limit_mb=2048", "-seed=1"]
    atheris.Setup([sys.argv[0], *limits, str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
