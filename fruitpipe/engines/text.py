"""The engine of a text tower: a text to a vector in the space of the image features, its references checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fruitpipe.config.sidecar import PLACE, TextTower, Words
from fruitpipe.engines.package import open_text_package
from fruitpipe.engines.portable import LEAST, cosine, vectors_of
from fruitpipe.engines.runtimes import Port, Runtime, chosen_output, runtime_of, shown
from fruitpipe.errors import UserError, first_line
from fruitpipe.extras import require

if TYPE_CHECKING:  # an extra
    from tokenizers import Tokenizer

IDS, MASK = "input_ids", "attention_mask"
"""Names that need no word in a sidecar; TensorFlow writes them as serving_default_input_ids:0."""
TYPES = {"ids": ("int64", "int32"), "mask": ("int64", "int32", "float32", "bool")}


class Ports(NamedTuple):
    """Numbers of the inputs; None where there is none, or it must be said which."""

    ids: int | None
    mask: int | None


class TextEncoder:
    """A text tower, a text at a time. Belongs to one thread."""

    def __init__(self, source: bytes | Path) -> None:
        """Raises UserError where something must be said in the sidecar, a reference has another vector, or tokenizers
        is not installed; ValueError where the artefact is no package."""
        require("tokenizers", "text", "makes the tokens of texts")
        from tokenizers import Tokenizer

        package = open_text_package(source)
        self.told = package.told
        self._name = package.told.network
        self._runtime: Runtime = runtime_of(PurePosixPath(self._name).suffix, package.network)
        try:
            self._tokenizer: Tokenizer = Tokenizer.from_str(package.tokenizer.decode())
        except Exception as error:  # of no class of its own
            raise UserError(
                f"{self.told.tokenizer} is not a file of the library tokenizers: {first_line(error)}."
            ) from error
        self._lowercase = self.told.lowercase
        self._open(self.told)
        self.dimension: int = len(self._feature(""))
        self._check(self.told.references or ())

    def vectors(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Of texts, (n, d), each of length 1. Raises UserError where one has no direction."""
        found = np.array([self._feature(text) for text in texts], np.float64)
        lengths = np.linalg.norm(found, axis=1)
        for text, length in zip(texts, lengths.tolist(), strict=True):
            if not 0 < length < np.inf:
                raise UserError(f"{self._name} gives no direction for {text!r}: choose other words.")
        return np.asarray(found / lengths[:, None])

    def prompts(self, labels: Sequence[str]) -> list[str]:
        """Texts for labels."""
        return [self.told.prompt.replace(PLACE, label) for label in labels]

    def _feature(self, text: str) -> NDArray[np.float32]:
        tokens = self._tokenizer.encode(text.lower() if self._lowercase else text)
        ids, mask = self._ports
        if ids is not None:
            self._runtime.given[ids][0] = tokens.ids
        if mask is not None:
            self._runtime.given[mask][0] = tokens.attention_mask
        return np.array(self._runtime.infer()[0])

    def _open(self, told: TextTower) -> None:
        """Make tokenizer and network ready.

        Raises UserError where they contradict the sidecar, or something is missing there.
        """
        self._ports, missing = self._inputs(told)
        length, padding = self._length(told), self._padding(told)
        if length is None:
            missing.append("length (tokens)")
        if padding is None:
            missing.append("padding (the token that fills)")
        number, _ = chosen_output(self._runtime, told.output, self._name, "text")
        if number is None:
            missing.append(f"output ({' or '.join(map(str, self._runtime.outputs))})")
        if told.references is None:
            missing.append("references ([] for none)")
        if missing:
            raise UserError(f"{self._name} does not describe itself completely: write under `text` in the sidecar "
                            f"{'; '.join(missing)}.")  # fmt: skip
        assert length is not None
        assert number is not None
        assert padding is not None
        side = (self._tokenizer.padding or {}).get("direction", "right")
        self._tokenizer.enable_truncation(length)
        self._tokenizer.enable_padding(direction=side, pad_id=padding[0], pad_token=padding[1], length=length)
        self._runtime.open([(1, length)] * len(self._runtime.inputs), number)
        if (found := self._runtime.infer()).ndim != 2:
            raise UserError(
                f"text: {self._runtime.outputs[number]} of {self._name} has {found.ndim} axes, not one vector for a "
                "text: choose another output, or export one."
            )

    def _inputs(self, told: TextTower) -> tuple[Ports, list[str]]:
        """Which inputs there are, and what the sidecar must say of them. Raises UserError for any others."""
        ports = self._runtime.inputs
        names = [str(port) for port in ports]
        ids = self._named(told.ids, "ids") if told.ids else self._usual(IDS)
        mask = self._named(told.mask, "mask") if told.mask else self._usual(MASK)
        if ids is None and len(ports) == 1:
            ids = 0
        if len(ports) > 2:
            raise UserError(f"{self._name} takes {', '.join(names)}: export the part that takes tokens, and a mask.")
        missing = []
        if ids is None:
            missing.append(f"ids ({' or '.join(names)})")
        elif ids == mask:
            raise UserError(f"text: ids and mask are both {names[ids]}: correct one of them.")
        elif len(ports) == 2 and mask is None:
            missing.append(f"mask ({names[1 - ids]})")
        for number, kind in ((ids, "ids"), (mask, "mask")):
            if number is not None:
                self._require_fit(ports[number], kind)
        return Ports(ids, mask), missing

    def _named(self, name: str, key: str) -> int:
        """The input that a key of the sidecar names."""
        found = [number for number, port in enumerate(self._runtime.inputs) if name in port.names]
        if not found:
            names = ", ".join(map(str, self._runtime.inputs))
            raise UserError(f"text: {key}: {self._name} has no input {name}: it takes {names}.")
        return found[0]

    def _usual(self, name: str) -> int | None:
        """The input of a usual name."""
        usual = {name, f"serving_default_{name}:0"}
        return next((at for at, port in enumerate(self._runtime.inputs) if usual.intersection(port.names)), None)

    def _require_fit(self, port: Port, kind: str) -> None:
        if port.dtype not in TYPES[kind] or (port.shape and (len(port.shape) != 2 or port.shape[0] not in {None, 1})):
            raise UserError(
                f"{self._name} takes {port}, {port.dtype} of {shown(port.shape)}: export one that takes "
                f"{' or '.join(TYPES[kind])} of 1 x tokens."
            )

    def _length(self, told: TextTower) -> int | None:
        """Tokens of a text; None where nothing says how many."""
        port = self._runtime.inputs[self._ports.ids or 0]
        fixed = port.shape[1] if port.shape else None
        if fixed and told.length not in {None, fixed}:
            raise UserError(f"text: length is {told.length}, and {self._name} takes {fixed} tokens: correct it.")
        cut, filled = self._tokenizer.truncation or {}, self._tokenizer.padding or {}
        return fixed or told.length or cut.get("max_length") or filled.get("length")

    def _padding(self, told: TextTower) -> tuple[int, str] | None:
        """The token that fills, by number and name; None where nothing says which."""
        if told.padding is None:
            known = self._tokenizer.padding
            return (known["pad_id"], known["pad_token"]) if known else None
        if (number := self._tokenizer.token_to_id(told.padding)) is None:
            raise UserError(f"text: padding {told.padding} is not a token of {told.tokenizer}: correct one of them.")
        return number, told.padding

    def _check(self, references: Sequence[Words]) -> None:
        """Raises UserError where a reference has another vector than the network gives."""
        wanted = vectors_of(references, self.dimension, "text", self._name, "output")
        for reference, found in zip(references, self._cosines(references, wanted), strict=True):
            if found < LEAST:
                raise UserError(
                    f"text: the reference {reference} has cosine {found:.4f} to what {self._name} gives, less than "
                    f"{LEAST}: {self._likely(references, wanted)}."
                )

    def _cosines(self, references: Sequence[Words], wanted: Sequence[NDArray[np.float32]]) -> list[float]:
        return [cosine(self._feature(each.text), vector) for each, vector in zip(references, wanted, strict=True)]

    def _likely(self, references: Sequence[Words], wanted: Sequence[NDArray[np.float32]]) -> str:
        """What of the sidecar is wrong, found by trying another."""
        self._lowercase = not self._lowercase
        if min(self._cosines(references, wanted)) >= LEAST:
            return f"with lowercase: {str(self._lowercase).lower()}, all references fit, so that is likely to be meant"
        return f"{self.told.tokenizer}, length or padding is likely to be another network's"
