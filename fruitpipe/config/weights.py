"""Names of a network's weights."""

from __future__ import annotations

import re

from fruitpipe.config.names import one_of

WEIGHTS = r"^(imagenet|random:\d{1,9}|.+\.(h5|keras)|.+/)$"


def weights_name(value: str) -> str:
    """A valid name of weights; a folder ends in a slash. Raises PydanticCustomError `unknown_name` otherwise."""
    if re.match(WEIGHTS, value):
        return value
    message = "is not imagenet, random:SEED, a file (.weights.h5, .keras, .h5) or a SavedModel's folder (model/)."
    return one_of(value, ["imagenet"], message)


def is_saved_model(weights: str) -> bool:
    """Whether weights are a SavedModel: a whole model with nothing known about it but its served output."""
    return weights.endswith("/")


def is_whole_model(weights: str) -> bool:
    """Whether weights include their own network, which may have other layers than the known one."""
    is_keras = weights.endswith((".keras", ".h5")) and not weights.endswith(".weights.h5")
    return is_saved_model(weights) or is_keras
