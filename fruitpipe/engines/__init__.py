"""What turns the pixels of an image into its feature: each kind behind the same two figures and one method.

What a kind needs besides its code is one file, the data of an Extractor: the same in a task, a model, another machine.
"""

from fruitpipe.engines.choice import network_kind
from fruitpipe.engines.engine import FILES, Engine, Extractor, Kind, class_of

__all__ = ["FILES", "Engine", "Extractor", "Kind", "class_of", "network_kind"]
