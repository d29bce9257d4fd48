"""Convert the backbones whose weights are at hand into the cache: backbones.py KERAS_HOME"""

import sys
from dataclasses import replace
from pathlib import Path

from fruitpipe.backbones.convert import flatbuffer
from fruitpipe.backbones.efficientnet_lite0 import EfficientNetLite0
from fruitpipe.backbones.keras_applications import KerasApplications
from fruitpipe.config import Environment


def main() -> None:
    environment = replace(Environment.read(), keras_folder=Path(sys.argv[1]))
    for family in (EfficientNetLite0(), KerasApplications()):
        for name in family.names:
            if family.has_weights(name, environment):
                print(flatbuffer(family.choose(name), environment)[1])


if __name__ == "__main__":
    main()
