"""A network in ONNX with its sidecar, and pictures, in a bucket; and what onnxruntime and NumPy make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import networks
import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
from cluster import manifest
from networks import SIDE, WIDTH
from numpy.typing import NDArray
from PIL import Image
from s3 import objects, upload
from seaweed import BUCKET

from fruitpipe.engines.reference_pictures import Kind, reference_picture

COUNT, COMPONENTS = 96, 5


def pictures() -> dict[str, NDArray[np.uint8]]:
    """Pictures of the network's own size by the end of their paths: nothing has to be resampled."""
    kinds: tuple[Kind, ...] = ("tiles", "noise")
    return {
        f"{kind}/{number}.png": reference_picture(kind, number, SIDE)
        for kind in kinds
        for number in range(100, 100 + COUNT // 2)
    }


def fill(client: Any, prefix: str, folder: Path) -> str:
    """Put it below a prefix, by way of a folder: `images`, and `models` with the network, whose URL it returns."""
    (folder / "models").mkdir()
    networks.write(folder / "models")
    for name, pixels in pictures().items():
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    upload(client, folder, prefix)
    return f"s3://{BUCKET}/{prefix}/models/patches.onnx"


def expected() -> dict[str, NDArray[np.float64]]:
    """Vectors of COMPONENTS numbers by the ends of paths: the network's features, standardised, on their main axes."""
    session = onnxruntime.InferenceSession(networks.onnx_network(), providers=["CPUExecutionProvider"])
    shown = [np.transpose(pixels, (2, 0, 1))[None].astype(np.float32) / 127.5 - 1 for pixels in pictures().values()]
    features = np.concatenate([session.run(None, {"pixels": each})[0] for each in shown]).astype(np.float64)
    assert features.shape == (COUNT, WIDTH)
    centred = features - features.mean(axis=0)
    scale = centred.std(axis=0)
    centred /= np.where(scale, scale, 1)
    axes = np.linalg.svd(centred, full_matrices=False)[2][:COMPONENTS]
    return dict(zip(pictures(), centred @ axes.T, strict=True))


def require_right(client: Any, out: str) -> None:
    """The published run below a prefix has these vectors, whose axes may point the other way."""
    found = manifest(client, out)
    assert (found["backbone"]["name"], found["backbone"]["engine"]) == ("patches.onnx", "onnx")
    assert found["counts"]["by_status"] == {"ok": COUNT}
    parts = objects(client, f"{out}/runs/{found['run']}/vectors/")
    rows = pa.concat_tables(pq.read_table(pa.BufferReader(each)) for each in parts.values()).to_pylist()
    there = {"/".join(row["path"].split("/")[-2:]): row["vector"] for row in rows}
    here = expected()
    assert there.keys() == here.keys()
    ours, theirs = np.array([there[name] for name in here]), np.array([*here.values()])
    signs = np.sign((ours * theirs).sum(axis=0))
    np.testing.assert_allclose(ours * signs, theirs, rtol=1e-3, atol=1e-3)
