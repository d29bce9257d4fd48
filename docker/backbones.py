"""Convert the backbones whose weights are at hand into the cache: backbones.py KERAS_HOME"""

import sys
from dataclasses import replace
from pathlib import Path

from fruitpipe.backbones import flatbuffer
from fruitpipe.config import KNOWN, Choice, Environment


def main() -> None:
    environment = replace(Environment.read(), keras_home=Path(sys.argv[1]))
    given = [path.name.replace("_", "").lower() for path in (environment.keras_home / "models").glob("*")]
    for name in KNOWN:
        weights = KNOWN[name].function.lower()
        if name == "efficientnet_lite0" or any(each.startswith((f"{weights}w", f"{weights}.")) for each in given):
            print(flatbuffer(Choice(name), environment)[1])


if __name__ == "__main__":
    main()
