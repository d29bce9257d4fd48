"""fruitpipe: a folder of images to deep features reduced by PCA, one Parquet row per image.

import fruitpipe

run = fruitpipe.run(fruitpipe.load_config(input="photos", output="out"))
model = fruitpipe.load_model(run.path("model"))
"""

from fruitpipe.config import Config
from fruitpipe.config import load as load_config
from fruitpipe.errors import FruitpipeError, Interrupted, TooManyFailures, UserError
from fruitpipe.model import Model, load_model
from fruitpipe.pipeline import run
from fruitpipe.runs import Run

__all__ = [
    "Config",
    "FruitpipeError",
    "Interrupted",
    "Model",
    "Run",
    "TooManyFailures",
    "UserError",
    "load_config",
    "load_model",
    "run",
]
