"""Engines turn pixels into features. Each is started from its kind and an artefact."""

from fruitpipe.engines.engine import BATCH, CPU, Engine, bytes_of, require_cpu
from fruitpipe.engines.spec import ENGINES, EngineSpec, file_name

__all__ = ["BATCH", "CPU", "ENGINES", "Engine", "EngineSpec", "bytes_of", "file_name", "require_cpu"]
