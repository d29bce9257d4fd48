"""A model as one ONNX file: network, scaler and PCA. An extra: fruitpipe[onnx]."""

from __future__ import annotations

from typing import Any

import numpy as np

from fruitpipe.backbones.onnx_network import to_onnx
from fruitpipe.errors import UserError
from fruitpipe.extras import require
from fruitpipe.model.model import Model
from fruitpipe.numeric.pca import Pca

NETWORKS = ("litert", "openvino")
"""Kinds of engines whose artefact is a network in float32."""
IMAGE, VECTOR = "image", "vector"
"""Names of the input, float32 of shape (1, side, side, 3), and of the output, float32 of shape (1, k)."""
PIXELS = "RGB, levels from 0 to 255 as float32, (1, side, side, 3): an image after the steps of `fruitpipe.image`"


def exported(model: Model) -> bytes:
    """An ONNX model that takes what the model's engine gets, pixels, and gives what `transform_images` does.

    Its metadata says which pixels these are. Scaler and PCA compute in float64, as everywhere; the network's features
    are LiteRT's but for rounding.

    Raises UserError where the extra is not installed, or the model's backbone is no network in float32.
    """
    if model.engine.kind not in NETWORKS:
        raise UserError(
            f"the model's backbone, {model.card.backbone}, is not a network that fruitpipe has converted in float32, "
            "and only those become ONNX: take a model of one."
        )
    require("onnx", "onnx", "writes the file")
    import onnx

    made = onnx.load_from_string(to_onnx(model.engine.data))
    reduce(made.graph, model)
    card = model.card
    facts = {"run": card.run, "backbone": card.backbone, "features": card.features, "input": PIXELS}
    facts["image"] = card.image.model_dump_json()
    onnx.helper.set_model_props(made, {f"fruitpipe.{name}": value for name, value in facts.items()})
    onnx.checker.check_model(made, full_check=True)
    data: bytes = made.SerializeToString()
    return data


def reduce(graph: Any, model: Model) -> None:
    """Give a network's graph the names IMAGE and VECTOR, and let it end with scaler and PCA."""
    from onnx import TensorProto, helper, numpy_helper

    names = {graph.input[0].name: IMAGE}
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    graph.input[0].name = IMAGE
    feature = graph.output[0].name
    if isinstance(pca := model.pca, Pca):
        arrays = {"mean": pca.mean, "scale": pca.scale, "components": np.ascontiguousarray(pca.components.T)}
        graph.initializer.extend(numpy_helper.from_array(array, f"pca/{name}") for name, array in arrays.items())
        steps = [
            helper.make_node("Cast", [feature], ["pca/feature"], to=TensorProto.DOUBLE),
            helper.make_node("Sub", ["pca/feature", "pca/mean"], ["pca/centred"]),
            helper.make_node("Div", ["pca/centred", "pca/scale"], ["pca/standard"]),
            helper.make_node("MatMul", ["pca/standard", "pca/components"], ["pca/vector"]),
            helper.make_node("Cast", ["pca/vector"], [VECTOR], to=TensorProto.FLOAT),
        ]
    else:
        steps = [helper.make_node("Identity", [feature], [VECTOR])]
    graph.node.extend(steps)
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(VECTOR, TensorProto.FLOAT, [1, pca.length]))
