"""Backbones that a config may name: networks of keras.applications, one whose weights come with pip, and others."""

from __future__ import annotations

import re
from typing import NamedTuple

from fruitpipe.config.names import known


class Known(NamedTuple):
    """A network, with all of its layers."""

    module: str
    """of keras.applications; empty where fruitpipe defines it"""
    function: str
    side: int
    """of its input, pixels"""
    dimension: int
    """of its features, where nothing else is said"""
    parameters: int
    layer: str | None = None
    """Layer of its features, where nothing else is said; None for the last one before the classifier."""
    used: int | None = None
    """Parameters up to that layer."""


class Choice(NamedTuple):
    """What a config says of its backbone."""

    name: str
    layer: str | int | None = None
    pooling: str = "avg"
    weights: str = "imagenet"

    @property
    def served(self) -> bool:
        """Whether the weights are a SavedModel: a whole model, of which no more is known than what it serves."""
        return self.weights.endswith("/")

    @property
    def whole(self) -> bool:
        """Whether the weights bring a network of their own, which need not have the layers of the known one."""
        return self.served or (self.weights.endswith((".keras", ".h5")) and not self.weights.endswith(".weights.h5"))

    @property
    def cut(self) -> str | int | None:
        """Layer of the features; None for the last one before the classifier."""
        return self.layer if self.layer is not None or self.whole else KNOWN[self.name].layer


WEIGHTS = r"^(imagenet|random:\d+|.+\.(h5|keras)|.+/)$"

# VGG's features are means of its last maps, 512 numbers: most of its weights are in the layers between those and the
# classifier, of 4096 numbers, for which `layer: fc2` asks.
KNOWN = {
    "efficientnet_lite0": Known("", "efficientnet_lite0", 224, 1280, 4652008),
    "convnext_base": Known("convnext", "ConvNeXtBase", 224, 1024, 88591464),
    "convnext_large": Known("convnext", "ConvNeXtLarge", 224, 1536, 197767336),
    "convnext_small": Known("convnext", "ConvNeXtSmall", 224, 768, 50223688),
    "convnext_tiny": Known("convnext", "ConvNeXtTiny", 224, 768, 28589128),
    "convnext_xlarge": Known("convnext", "ConvNeXtXLarge", 224, 2048, 350196968),
    "densenet121": Known("densenet", "DenseNet121", 224, 1024, 8062504),
    "densenet169": Known("densenet", "DenseNet169", 224, 1664, 14307880),
    "densenet201": Known("densenet", "DenseNet201", 224, 1920, 20242984),
    "efficientnet_b0": Known("efficientnet", "EfficientNetB0", 224, 1280, 5330571),
    "efficientnet_b1": Known("efficientnet", "EfficientNetB1", 240, 1280, 7856239),
    "efficientnet_b2": Known("efficientnet", "EfficientNetB2", 260, 1408, 9177569),
    "efficientnet_b3": Known("efficientnet", "EfficientNetB3", 300, 1536, 12320535),
    "efficientnet_b4": Known("efficientnet", "EfficientNetB4", 380, 1792, 19466823),
    "efficientnet_b5": Known("efficientnet", "EfficientNetB5", 456, 2048, 30562527),
    "efficientnet_b6": Known("efficientnet", "EfficientNetB6", 528, 2304, 43265143),
    "efficientnet_b7": Known("efficientnet", "EfficientNetB7", 600, 2560, 66658687),
    "efficientnet_v2_b0": Known("efficientnet_v2", "EfficientNetV2B0", 224, 1280, 7200312),
    "efficientnet_v2_b1": Known("efficientnet_v2", "EfficientNetV2B1", 240, 1280, 8212124),
    "efficientnet_v2_b2": Known("efficientnet_v2", "EfficientNetV2B2", 260, 1408, 10178374),
    "efficientnet_v2_b3": Known("efficientnet_v2", "EfficientNetV2B3", 300, 1536, 14467622),
    "efficientnet_v2_l": Known("efficientnet_v2", "EfficientNetV2L", 480, 1280, 119027848),
    "efficientnet_v2_m": Known("efficientnet_v2", "EfficientNetV2M", 480, 1280, 54431388),
    "efficientnet_v2_s": Known("efficientnet_v2", "EfficientNetV2S", 384, 1280, 21612360),
    "inception_resnet_v2": Known("inception_resnet_v2", "InceptionResNetV2", 299, 1536, 55873736),
    "inception_v3": Known("inception_v3", "InceptionV3", 299, 2048, 23851784),
    "mobilenet": Known("mobilenet", "MobileNet", 224, 1024, 4253864),
    "mobilenet_v2": Known("mobilenet_v2", "MobileNetV2", 224, 1280, 3538984),
    "mobilenet_v3_large": Known("mobilenet_v3", "MobileNetV3Large", 224, 1280, 5507432),
    "mobilenet_v3_small": Known("mobilenet_v3", "MobileNetV3Small", 224, 1024, 2554968),
    "nasnet_large": Known("nasnet", "NASNetLarge", 331, 4032, 88949818),
    "nasnet_mobile": Known("nasnet", "NASNetMobile", 224, 1056, 5326716),
    "resnet101": Known("resnet", "ResNet101", 224, 2048, 44707176),
    "resnet101_v2": Known("resnet_v2", "ResNet101V2", 224, 2048, 44675560),
    "resnet152": Known("resnet", "ResNet152", 224, 2048, 60419944),
    "resnet152_v2": Known("resnet_v2", "ResNet152V2", 224, 2048, 60380648),
    "resnet50": Known("resnet", "ResNet50", 224, 2048, 25636712),
    "resnet50_v2": Known("resnet_v2", "ResNet50V2", 224, 2048, 25613800),
    "vgg16": Known("vgg16", "VGG16", 224, 512, 138357544, "block5_pool", 14714688),
    "vgg19": Known("vgg19", "VGG19", 224, 512, 143667240, "block5_pool", 20024384),
    "xception": Known("xception", "Xception", 299, 2048, 22910480),
}


WORDS = ("orb", "sift")
"""Detectors of bags of visual words."""
CLASS = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$"


def worker_memory(choice: Choice) -> int:
    """What a Python worker needs, MiB: what all do, and the weights three times at its start: as sent, as read, and as
    packed for the processor. Largest seen: 380 with mobilenet_v2, 610 with resnet50, 1860 with vgg16 up to fc2."""
    known = KNOWN.get(choice.name)
    parameters = 0 if known is None else known.parameters
    if known and known.used and choice.cut == known.layer:
        parameters = known.used
    return int(-(-(420 + 12 * parameters / (1 << 20)) // 10) * 10)


def is_class(name: str) -> bool:
    """Whether a backbone is a class of the user's, as in package.module:Class."""
    return re.fullmatch(CLASS, name) is not None


def backbone_name(value: str) -> str:
    """A name that is known, or that of a class. Raises PydanticCustomError `unknown_name`, with the likely one."""
    if is_class(value):
        return value
    return known(
        value,
        [*KNOWN, *WORDS],
        "is no backbone: `fruitpipe backbones` lists them, and a class of your own is package.module:Class.",
    )


def weights_name(value: str) -> str:
    """What may name weights; a folder ends in a slash. Raises PydanticCustomError `unknown_name` otherwise."""
    if re.match(WEIGHTS, value):
        return value
    message = "is none of imagenet, random:SEED, a file (.weights.h5, .keras, .h5) and a SavedModel's folder (model/)."
    return known(value, ["imagenet"], message)
