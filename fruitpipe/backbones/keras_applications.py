"""The networks of keras.applications, with weights that Keras downloads."""

from __future__ import annotations

import re
from typing import Any

from fruitpipe.backbones.network_choice import KnownNetwork
from fruitpipe.backbones.network_family import NetworkFamily
from fruitpipe.config import Environment
from fruitpipe.errors import NoWeights, first_line

# VGG's features are means of its last maps, 512 numbers: most of its weights are in the layers between those and the
# classifier, of 4096 numbers, for which `layer: fc2` asks.
NETWORKS = {
    "convnext_base": ("convnext.ConvNeXtBase", KnownNetwork(224, 1024, 88591464)),
    "convnext_large": ("convnext.ConvNeXtLarge", KnownNetwork(224, 1536, 197767336)),
    "convnext_small": ("convnext.ConvNeXtSmall", KnownNetwork(224, 768, 50223688)),
    "convnext_tiny": ("convnext.ConvNeXtTiny", KnownNetwork(224, 768, 28589128)),
    "convnext_xlarge": ("convnext.ConvNeXtXLarge", KnownNetwork(224, 2048, 350196968)),
    "densenet121": ("densenet.DenseNet121", KnownNetwork(224, 1024, 8062504)),
    "densenet169": ("densenet.DenseNet169", KnownNetwork(224, 1664, 14307880)),
    "densenet201": ("densenet.DenseNet201", KnownNetwork(224, 1920, 20242984)),
    "efficientnet_b0": ("efficientnet.EfficientNetB0", KnownNetwork(224, 1280, 5330571)),
    "efficientnet_b1": ("efficientnet.EfficientNetB1", KnownNetwork(240, 1280, 7856239)),
    "efficientnet_b2": ("efficientnet.EfficientNetB2", KnownNetwork(260, 1408, 9177569)),
    "efficientnet_b3": ("efficientnet.EfficientNetB3", KnownNetwork(300, 1536, 12320535)),
    "efficientnet_b4": ("efficientnet.EfficientNetB4", KnownNetwork(380, 1792, 19466823)),
    "efficientnet_b5": ("efficientnet.EfficientNetB5", KnownNetwork(456, 2048, 30562527)),
    "efficientnet_b6": ("efficientnet.EfficientNetB6", KnownNetwork(528, 2304, 43265143)),
    "efficientnet_b7": ("efficientnet.EfficientNetB7", KnownNetwork(600, 2560, 66658687)),
    "efficientnet_v2_b0": ("efficientnet_v2.EfficientNetV2B0", KnownNetwork(224, 1280, 7200312)),
    "efficientnet_v2_b1": ("efficientnet_v2.EfficientNetV2B1", KnownNetwork(240, 1280, 8212124)),
    "efficientnet_v2_b2": ("efficientnet_v2.EfficientNetV2B2", KnownNetwork(260, 1408, 10178374)),
    "efficientnet_v2_b3": ("efficientnet_v2.EfficientNetV2B3", KnownNetwork(300, 1536, 14467622)),
    "efficientnet_v2_l": ("efficientnet_v2.EfficientNetV2L", KnownNetwork(480, 1280, 119027848)),
    "efficientnet_v2_m": ("efficientnet_v2.EfficientNetV2M", KnownNetwork(480, 1280, 54431388)),
    "efficientnet_v2_s": ("efficientnet_v2.EfficientNetV2S", KnownNetwork(384, 1280, 21612360)),
    "inception_resnet_v2": ("inception_resnet_v2.InceptionResNetV2", KnownNetwork(299, 1536, 55873736)),
    "inception_v3": ("inception_v3.InceptionV3", KnownNetwork(299, 2048, 23851784)),
    "mobilenet": ("mobilenet.MobileNet", KnownNetwork(224, 1024, 4253864)),
    "mobilenet_v2": ("mobilenet_v2.MobileNetV2", KnownNetwork(224, 1280, 3538984)),
    "mobilenet_v3_large": ("mobilenet_v3.MobileNetV3Large", KnownNetwork(224, 1280, 5507432)),
    "mobilenet_v3_small": ("mobilenet_v3.MobileNetV3Small", KnownNetwork(224, 1024, 2554968)),
    "nasnet_large": ("nasnet.NASNetLarge", KnownNetwork(331, 4032, 88949818)),
    "nasnet_mobile": ("nasnet.NASNetMobile", KnownNetwork(224, 1056, 5326716)),
    "resnet101": ("resnet.ResNet101", KnownNetwork(224, 2048, 44707176)),
    "resnet101_v2": ("resnet_v2.ResNet101V2", KnownNetwork(224, 2048, 44675560)),
    "resnet152": ("resnet.ResNet152", KnownNetwork(224, 2048, 60419944)),
    "resnet152_v2": ("resnet_v2.ResNet152V2", KnownNetwork(224, 2048, 60380648)),
    "resnet50": ("resnet.ResNet50", KnownNetwork(224, 2048, 25636712)),
    "resnet50_v2": ("resnet_v2.ResNet50V2", KnownNetwork(224, 2048, 25613800)),
    "vgg16": ("vgg16.VGG16", KnownNetwork(224, 512, 138357544, "block5_pool", 14714688)),
    "vgg19": ("vgg19.VGG19", KnownNetwork(224, 512, 143667240, "block5_pool", 20024384)),
    "xception": ("xception.Xception", KnownNetwork(299, 2048, 22910480)),
}
"""Module and function of keras.applications, and facts, by name."""
FILE = re.compile(r"^weights_|_weights_tf_dim_ordering_tf_kernels|(_1[._]0_224(_tf)?|_224_1\.0_float)?\.h5$|[_-]")
"""What the name of a whole network's weights has besides that of its function; others have more, such as `notop`."""


class KerasApplications(NetworkFamily):
    """Networks of keras.applications."""

    networks = {name: known for name, (_, known) in NETWORKS.items()}  # noqa: RUF012 - a constant of the class

    def architecture(self, name: str, trained: bool) -> Any:
        import keras

        try:
            return getattr(keras.applications, function_of(name))(weights="imagenet" if trained else None)
        except Exception as error:
            if not trained:
                raise
            if isinstance(error, OSError):  # of HDF5: what Keras says of a download is none
                reason = first_line(error)
                what = f"cannot read ImageNet weights for {name} ({reason}): delete the file in Keras's `models`, and"
            else:
                reason = str(error).strip().splitlines()[-1].rpartition(" -- ")[2]
                what = f"no ImageNet weights for {name}, and Keras cannot download them ({reason}):"
            raise NoWeights(
                f"{what} run once where there is a network, or set KERAS_HOME to a folder whose `models` has them, or "
                "use --backbone efficientnet_lite0, whose weights came with fruitpipe."
            ) from error

    def preprocess(self, name: str, image: Any) -> Any:
        import keras

        return getattr(keras.applications, module_of(name)).preprocess_input(image)

    def has_weights(self, name: str, environment: Environment) -> bool:
        files = (environment.keras_home / "models").glob("*.h5")
        return any(FILE.sub("", path.name) == function_of(name).lower() for path in files)


def module_of(name: str) -> str:
    """Name within keras.applications."""
    return NETWORKS[name][0].partition(".")[0]


def function_of(name: str) -> str:
    """Name within keras.applications."""
    return NETWORKS[name][0].partition(".")[2]
