"""The one config object, shared by the CLI, YAML files, the Python API and the JSON Schema; and the environment."""

from fruitpipe.config.environment import Environment
from fruitpipe.config.families import Family, families, find_family
from fruitpipe.config.formats import PARQUET, SINKS
from fruitpipe.config.loading import load_config, validate
from fruitpipe.config.names import RECORDED
from fruitpipe.config.places import SCHEME, absolute_path, is_remote, local_path, location
from fruitpipe.config.presets import PRESETS, about, keys_of
from fruitpipe.config.sections import (
    BackboneEntry,
    Config,
    FailuresConfig,
    IcebergConfig,
    ImageConfig,
    NeighboursConfig,
    PcaConfig,
    PublishConfig,
    S3Config,
    SparkConfig,
    TrackConfig,
    WordsConfig,
)
from fruitpipe.config.validation import ConfigError, Mistake

__all__ = [
    "PARQUET",
    "PRESETS",
    "RECORDED",
    "SCHEME",
    "SINKS",
    "BackboneEntry",
    "Config",
    "ConfigError",
    "Environment",
    "FailuresConfig",
    "Family",
    "IcebergConfig",
    "ImageConfig",
    "Mistake",
    "NeighboursConfig",
    "PcaConfig",
    "PublishConfig",
    "S3Config",
    "SparkConfig",
    "TrackConfig",
    "WordsConfig",
    "about",
    "absolute_path",
    "families",
    "find_family",
    "is_remote",
    "keys_of",
    "load_config",
    "local_path",
    "location",
    "validate",
]
