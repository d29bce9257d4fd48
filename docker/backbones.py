"""Convert the backbones whose weights are at hand into the cache: backbones.py KERAS_HOME

Keras' weights go where the image looks for them, since a backbone is known by the digest of its weights.
"""

import sys
from pathlib import Path
from shutil import copy

from fruitpipe.backbones import by_name, flatbuffer
from fruitpipe.backbones.backbone import definition
from fruitpipe.config import BACKBONES, Environment


def main() -> None:
    given, environment = Path(sys.argv[1]), Environment.read()
    for name in BACKBONES:
        source = definition(name).weights_file(given)
        if by_name(name, environment.keras_home) is None and source.is_file():
            target = definition(name).weights_file(environment.keras_home)
            target.parent.mkdir(parents=True, exist_ok=True)
            copy(source, target)
        if by_name(name, environment.keras_home):
            print(flatbuffer(name, environment)[1])


if __name__ == "__main__":
    main()
