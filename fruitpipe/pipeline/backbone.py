"""The backbone of a config, ready to run."""

from __future__ import annotations

from typing import NamedTuple

from fruitpipe.backbones import Backbone, flatbuffer
from fruitpipe.config import KNOWN, Config, Environment, is_class
from fruitpipe.engines import Extractor, network_kind
from fruitpipe.vision.decode import features_digest


class Prepared(NamedTuple):
    """A backbone with all that makes its features."""

    backbone: Backbone
    extractor: Extractor
    features: str
    """digest of the features that it gives under the config"""

    @property
    def portable(self) -> Extractor:
        """The same for machines that may have no OpenVINO: in float32, its features are LiteRT's."""
        return self.extractor._replace(kind="litert") if self.extractor.kind == "openvino" else self.extractor


def prepare(config: Config, environment: Environment) -> Prepared:
    """Convert a network, or look at a class. Raises UserError where the backbone is not to be had."""
    if is_class(config.backbone):
        from fruitpipe.engines.custom import describe

        backbone, data = describe(config.backbone)
        extractor = Extractor("python", data)
    else:
        backbone, path = flatbuffer(config.network, environment)
        # A known network counts as a whole: up to its maps, VGG16 has few weights and as much to compute.
        whole = backbone.parameters if config.network.whole else KNOWN[config.backbone].parameters
        kind = network_kind(config.engine, config.precision, whole)
        extractor = Extractor(kind, path.resolve())  # as workers may be in another folder
    return Prepared(backbone, extractor, features_digest(backbone.digest, config.image, config.precision))


def prepare_words(config: Config, data: bytes) -> Prepared:
    """A bag of the words of a vocabulary. Raises ValueError, KeyError or BadZipFile where `data` is none."""
    from fruitpipe.engines.visual_words import Vocabulary

    vocabulary, extractor = Vocabulary.from_bytes(data), Extractor("words", data)
    size, width = vocabulary.words.shape
    backbone = Backbone(
        name=config.backbone,
        input_size=vocabulary.detector.side,
        layer="words",
        pooling="count",
        weights=extractor.digest,
        dimension=size,
        parameters=size * width,
    )
    return Prepared(backbone, extractor, features_digest(backbone.digest, config.image))
