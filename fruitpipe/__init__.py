"""fruitpipe: a folder of images to deep features reduced by PCA, one Parquet row per image.

import fruitpipe

run = fruitpipe.run(fruitpipe.load_config(input="photos", output="out"))
model = fruitpipe.load_model(run.path("model"))
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fruitpipe.config import Config, load_config
    from fruitpipe.engines.custom import CustomBackbone, Description
    from fruitpipe.engines.reference_pictures import reference_picture
    from fruitpipe.errors import FruitpipeError, Interrupted, TooManyFailures, UserError
    from fruitpipe.model.model import Model, load_model
    from fruitpipe.pipeline.run import run
    from fruitpipe.pipeline.several import SomeFailed, run_several
    from fruitpipe.releases.release import Release, submit
    from fruitpipe.result.runs import Run

HOMES = {
    "Config": "config",
    "CustomBackbone": "engines.custom",
    "Description": "engines.custom",
    "FruitpipeError": "errors",
    "Interrupted": "errors",
    "Model": "model.model",
    "Release": "releases.release",
    "Run": "result.runs",
    "SomeFailed": "pipeline.several",
    "TooManyFailures": "errors",
    "UserError": "errors",
    "load_config": "config",
    "load_model": "model.model",
    "reference_picture": "engines.reference_pictures",
    "run": "pipeline.run",
    "run_several": "pipeline.several",
    "submit": "releases.release",
}

__all__ = [
    "Config",
    "CustomBackbone",
    "Description",
    "FruitpipeError",
    "Interrupted",
    "Model",
    "Release",
    "Run",
    "SomeFailed",
    "TooManyFailures",
    "UserError",
    "load_config",
    "load_model",
    "reference_picture",
    "run",
    "run_several",
    "submit",
]


def __getattr__(name: str) -> Any:
    """Import public names at their first use: Python workers need a third of the package, which saves them 30 MB."""
    if name in HOMES:
        return getattr(import_module(f"fruitpipe.{HOMES[name]}"), name)
    raise AttributeError(f"module 'fruitpipe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
