"""Backbone families, and the one function that resolves a config's backbone.

Nothing is imported before it is asked for: a conversion needs neither engines nor pictures, a run no Keras.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fruitpipe.backbones.family import family_of

if TYPE_CHECKING:
    from fruitpipe.backbones.family import Learning
    from fruitpipe.backbones.resolved import ResolvedBackbone
    from fruitpipe.config import Config, Environment


def resolve(config: Config, environment: Environment, learning: Learning | None = None) -> ResolvedBackbone:
    """The backbone of a config, ready to run: converted, looked at or learnt, whatever its family does.

    learning: what a backbone that is learnt gets images from; None where there are none.

    Raises
    ------
    UserError: it is not available, or something in the config does not fit it.
    NoWeights: its trained weights are not available here.
    NotLearnt: it is learnt from images, and there are none or it is not the time.
    """
    return family_of(config.backbone).resolve(config, environment, learning)


def is_to_be_converted(config: Config, environment: Environment) -> bool:
    """Whether `resolve` converts a network first. Raises UserError where `weights` names a file that cannot be read."""
    from fruitpipe.backbones.convert import Converting, converted

    family = family_of(config.backbone)
    return isinstance(family, Converting) and converted(family.chosen(config), environment) is None
