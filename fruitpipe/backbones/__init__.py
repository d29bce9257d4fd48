"""The networks that turn an image into a feature vector.

A backbone is defined in Keras, and its flatbuffer takes raw RGB: preprocessing is part of the graph. So whoever runs
one needs LiteRT and an image of the right size, not TensorFlow and not the name of the network.
"""

from fruitpipe.backbones.backbone import Backbone
from fruitpipe.backbones.convert import converted, flatbuffer

__all__ = ["Backbone", "converted", "flatbuffer"]
