"""The engine of a network from elsewhere: pixels as its sidecar says, its output pooled, its references checked."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fruitpipe.config.sidecar import NAMED, Reference, Sidecar, Words
from fruitpipe.engines.engine import BATCH, CPU, require_cpu
from fruitpipe.engines.gpu import Gpu
from fruitpipe.engines.package import open_package
from fruitpipe.engines.reference_pictures import pixels_digest, reference_picture
from fruitpipe.engines.runtimes import Port, Runtime, Shape, chosen_output, runtime_of, shown
from fruitpipe.errors import UserError
from fruitpipe.vision.bad_image import BadImage

LEAST = 0.9999
"""Cosine to the vector of a reference."""
LENGTH = 0.01
"""Share by which the length of a feature may differ from that of a reference's vector."""
POOLINGS = {2: (None,), 3: ("mean", "cls"), 4: ("average",)}
"""By axes of an output: features, tokens, maps."""


class PortableNetwork:
    """A network: on the CPU an image at a time, on a graphics card as many as it takes."""

    def __init__(self, source: bytes | Path, device: str = CPU) -> None:
        """Raises UserError where something must be said in the sidecar, or a reference has another vector, and for
        another device; ValueError where the artefact is no package."""
        package = open_package(source)
        self._name, self._beside = package.name, package.beside
        suffix = PurePosixPath(package.name).suffix
        gpu = Gpu.named(device) if suffix == ".onnx" else None
        if gpu is None:
            require_cpu(self._name, device)
        self._runtime: Runtime = runtime_of(suffix, package.network, gpu)
        self.sidecar = self._completed(package.told)
        """with all that was read from the network"""
        self.side: int = self.sidecar.size or 0
        self._at_once = len(self._runtime.given[0])
        self.batch = BATCH if self._at_once == 1 else self._at_once
        self._take(self.sidecar)
        self.dimension = len(self._feature(np.zeros((self.side, self.side, 3), np.uint8)))
        self._check(self.sidecar.references or ())

    def run(self, batch: NDArray[np.uint8], out: NDArray[np.float32]) -> dict[int, BadImage]:
        for start in range(0, len(batch), self._at_once):
            group = batch[start : start + self._at_once]
            for number, pixels in enumerate(group):
                self._show(pixels, number)
            for feature, output in zip(out[start : start + len(group)], self._runtime.infer(), strict=False):
                feature[...] = self._pooled(output)
        return {}

    def _take(self, sidecar: Sidecar) -> None:
        """Follow a sidecar from now on."""
        levels = sidecar.levels
        assert levels is not None, "a sidecar is complete"
        self._pooling, self._l2 = sidecar.pooling, sidecar.l2_normalise
        self._backwards, self._channels_first = levels.channels == "BGR", sidecar.layout == "NCHW"
        std = np.array(levels.std)
        # As large as the picture: NumPy takes twenty times as long over rows of three.
        self._scale, self._shift = (
            self._in_order(np.broadcast_to(each.astype(np.float32), (self.side, self.side, 3))).copy()
            for each in (1 / (255 * std), -np.array(levels.mean) / std)
        )
        self._as_they_are = bool((self._scale == 1).all() and not self._shift.any())

    def _in_order(self, picture: NDArray[Any]) -> NDArray[Any]:
        """A picture's axes in the network's order."""
        return picture.transpose(2, 0, 1) if self._channels_first else picture

    def _show(self, pixels: NDArray[np.uint8], number: int = 0) -> None:
        """Write pixels to the input as one of its images. LiteRT wants nobody to hold that when it runs."""
        image = self._runtime.given[0][number]
        given = self._in_order(pixels[..., ::-1] if self._backwards else pixels)
        if self._as_they_are:
            image[...] = given
        else:
            np.multiply(given, self._scale, out=image)
            np.add(image, self._shift, out=image)

    def _feature(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        self._show(pixels)
        return self._pooled(self._runtime.infer()[0])

    def _pooled(self, output: NDArray[np.float32]) -> NDArray[np.float32]:
        feature = pooled(output, self._pooling, self._channels_first)
        if self._l2:
            feature = feature / (float(np.linalg.norm(feature)) or 1.0)
        return feature

    def _completed(self, told: Sidecar) -> Sidecar:
        """A sidecar with all that the network says of itself; the network is open then.

        Raises UserError where they contradict each other, or something is missing.
        """
        port = self._input(told)
        missing = []
        if (layout := told.layout or layout_of(port.shape)) is None:
            missing.append("layout (NCHW or NHWC)")
        if (size := told.size or size_of(port.shape, layout)) is None:
            missing.append("size (pixels)")
        if told.levels is None:
            missing.append(f"preprocessing ({', '.join(NAMED)}) or mean and std")
        number, rank = chosen_output(self._runtime, told.output, self._name, self._beside)
        if number is None:
            missing.append(f"output ({' or '.join(map(str, self._runtime.outputs))})")
        if layout and size and number is not None:
            shape = (1, 3, size, size) if layout == "NCHW" else (1, size, size, 3)
            self._require_fit(port, shape)
            self._runtime.open([shape], number)
            rank = self._runtime.infer().ndim
        pooling = told.pooling or (None if rank == 3 else POOLINGS.get(rank or 2, (None,))[0])
        if rank == 3 and pooling is None:
            missing.append("pooling (mean or cls)")
        if told.references is None:
            missing.append("references ([] for none)")
        if missing:
            raise UserError(f"{self._name} does not describe itself completely: write {self._beside} beside it with "
                            f"{'; '.join(missing)}.")  # fmt: skip
        if rank not in POOLINGS or pooling not in POOLINGS[rank]:
            raise UserError(
                f"{self._beside}: pooling {pooling or 'none'} does not fit an output of {rank} axes: choose another "
                "output or pooling."
            )
        output = told.output or f"output {number}"
        return told.model_copy(update={"layout": layout, "size": size, "output": output, "pooling": pooling})

    def _input(self, told: Sidecar) -> Port:
        """The only input. Raises UserError where it takes no picture."""
        inputs = self._runtime.inputs
        if len(inputs) != 1:
            names = ", ".join(map(str, inputs)) or "nothing"
            raise UserError(f"{self._name} takes {names}: export the part that takes an image.")
        port = inputs[0]
        if told.input not in {None, *port.names}:
            raise UserError(f"{self._beside}: {self._name} has no input {told.input}: it takes {port}.")
        if port.dtype != "float32" or (port.shape is not None and len(port.shape) != 4):
            raise UserError(
                f"{self._name} takes {port.dtype} of {shown(port.shape)}: export one that takes float32 of four axes."
            )
        return port

    def _require_fit(self, port: Port, shape: tuple[int, ...]) -> None:
        if any(there not in {None, here} for there, here in zip(port.shape or shape, shape, strict=True)):
            raise UserError(
                f"{self._name} takes {shown(port.shape)}, which is not {shown(shape)}, one square RGB image: export it "
                f"with a free batch or one of 1, and check layout and size in {self._beside}."
            )

    def _check(self, references: tuple[Reference, ...]) -> None:
        """Raises UserError where a reference has another vector than the network gives."""
        pictures = [reference_picture(each.kind, each.seed, self.side) for each in references]
        for reference, picture in zip(references, pictures, strict=True):
            if pixels_digest(picture) != reference.pixels:
                raise UserError(
                    f"{self._beside}: the reference {reference} has other pixels at {self.side} x {self.side}: its "
                    "kind, seed or pixels are wrong, or size is."
                )
        wanted = vectors_of(references, self.dimension, self._beside, self._name, "output or pooling")
        features = np.empty((len(pictures), self.dimension), np.float32)
        if pictures:  # together, as a graphics card computes them
            self.run(np.stack(pictures), features)
        for reference, feature, vector in zip(references, features, wanted, strict=True):
            if (found := cosine(feature, vector)) < LEAST:
                raise UserError(
                    f"{self._beside}: the reference {reference} has cosine {found:.4f} to what {self._name} gives, "
                    f"less than {LEAST}: {self._likely(pictures, wanted)}."
                )
            there, here = float(np.linalg.norm(vector)), float(np.linalg.norm(feature))
            if abs(here - there) > LENGTH * there:
                raise UserError(
                    f"{self._beside}: the reference {reference} has length {there:.4g}, and what {self._name} gives "
                    f"{here:.4g}: l2_normalise is likely to be {str(not self._l2).lower()}."
                )

    def _likely(self, pictures: list[NDArray[np.uint8]], wanted: list[NDArray[np.float32]]) -> str:
        """Which key of the sidecar is wrong, found by trying others."""
        try:
            for change in self._alternatives():
                self._take(self.sidecar.model_copy(update=change))
                if min(map(cosine, map(self._feature, pictures), wanted)) >= LEAST:
                    said = ", ".join(f"{name}: {value}" for name, value in change.items() if value)
                    return f"with {said}, all references fit, so that is likely to be meant"
        finally:
            self._take(self.sidecar)
        return "mean, std or channels are likely to be wrong, or it is another network"

    def _alternatives(self) -> Iterator[dict[str, Any]]:
        """Changes of the sidecar that people make by mistake."""
        levels = self.sidecar.levels
        assert levels is not None
        yield {"channels": "RGB" if levels.channels == "BGR" else "BGR"}
        for pooling in {"mean": ["cls"], "cls": ["mean"]}.get(self.sidecar.pooling or "", []):
            yield {"pooling": pooling}
        for name, known in NAMED.items():
            for channels in ("RGB", "BGR"):
                own = channels if channels != known.channels else None
                yield {"preprocessing": name, "channels": own, "mean": None, "std": None}


def layout_of(shape: Shape | None) -> str | None:
    """Of an input; None where its shape does not say."""
    if shape is None or (shape[1] == 3) == (shape[3] == 3):
        return None
    return "NCHW" if shape[1] == 3 else "NHWC"


def size_of(shape: Shape | None, layout: str | None) -> int | None:
    """Height and width of an input; None where its shape does not say. Of one that is not square, the height."""
    if shape is None or layout is None:
        return None
    return shape[2] if layout == "NCHW" else shape[1]


def pooled(output: NDArray[np.float32], pooling: str | None, channels_first: bool) -> NDArray[np.float32]:
    """A feature (d,) of an image's output: features (d,), tokens (t, d), or maps, whose height and width are equal."""
    if pooling == "cls":
        return np.asarray(output[0])
    if pooling == "mean":
        return np.asarray(output.mean(axis=0))
    if pooling == "average":
        height, width, last = output.shape
        first = width == last and (height != width or channels_first)
        return np.asarray(output.mean(axis=(1, 2) if first else (0, 1)))
    return output


def vectors_of(
    references: Sequence[Reference | Words], dimension: int, told: str, name: str, likely: str
) -> list[NDArray[np.float32]]:
    """Vectors of references, (dimension,) each.

    told, name, likely: for errors, what has the references, the network, and keys that may be wrong.

    Raises UserError where one has another length.
    """
    vectors = [np.frombuffer(base64.b64decode(each.vector), "<f4") for each in references]
    if lengths := {len(vector) for vector in vectors} - {dimension}:
        raise UserError(
            f"{told}: a reference has {min(lengths)} numbers, and {name} gives {dimension}: {likely} is likely to be "
            "another."
        )
    return vectors


def cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """1 of two vectors of zeros; 0 where a number is none."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return 0.0
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / lengths if lengths else float(np.array_equal(a, b))
