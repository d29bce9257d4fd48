"""What it takes to decode pictures that are as large as they may be: status, and the decoder's largest resident memory.

python benchmarks/decoders.py [--side 7000]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from fruitpipe.config import ImageConfig
from fruitpipe.vision.bad_image import BadImage
from fruitpipe.vision.decoder import Decoder, decode_within_limits, end_idle
from fruitpipe.vision.formats import heif, jxl

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from bombs import LARGE, noise
from hostile import encode

BACKBONE_SIDE = 224
MORE = {
    "JPEG, whole": lambda side: encode(noise("RGB", side, side), "JPEG", quality=90),
    "AVIF with alpha": lambda side: encode(noise("RGBA", side, side), "AVIF", speed=10),
    "TIFF with alpha": lambda side: encode(noise("RGBA", side, side), "TIFF", compression="tiff_lzw"),
    "HEIC": lambda side: encode(noise("RGB", side, side), "HEIF"),
    "JPEG XL": lambda side: encode(noise("RGB", side, side), "JXL", effort=1),
    "JPEG XL with alpha": lambda side: encode(noise("RGBA", side, side), "JXL", effort=1),
    "WebP of two thirds of the pixels": lambda side: LARGE["WebP"](int(side * (2 / 3) ** 0.5)),
}
"""Further pictures of so many pixels a side."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=7000, help="pixels [%(default)s]")
    options = parser.parse_args()
    heif()
    jxl()
    rules = ImageConfig(decode="exact")
    Decoder.of_all = True
    print(f"{options.side} x {options.side} pixels, image.max_memory {rules.max_memory >> 20} MiB")
    for kind, make in (LARGE | MORE).items():
        data = make(options.side)
        end_idle()
        start = time.perf_counter()
        try:
            decode_within_limits(data, BACKBONE_SIDE, rules)
            outcome = "ok"
        except BadImage as error:
            outcome = f"{error.status}: {str(error).splitlines()[0][:60]}"
        seconds = time.perf_counter() - start
        print(f"{kind:<34}{len(data) / 1e6:>7.1f} MB {seconds:>6.1f} s {largest():>7}  {outcome}", flush=True)


def largest() -> str:
    """Resident memory that the decoder has had at most, if it is still there."""
    if not Decoder.idle:
        return "-"
    said = Path(f"/proc/{Decoder.idle[0]._process.pid}/status").read_text().split("VmHWM:")[1]
    return f"{int(said.split()[0]) * 1024 / 1e6:.0f} MB"


if __name__ == "__main__":
    main()
