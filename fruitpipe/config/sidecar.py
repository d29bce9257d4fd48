"""What a network's file does not say of itself: `model.yaml` beside `model.onnx` or `model.tflite`."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import AfterValidator, Field, StringConstraints, ValidationError, model_validator

from fruitpipe.config.forms import SHA256, Form
from fruitpipe.config.loading import mapping_in
from fruitpipe.config.sections import Section, Text
from fruitpipe.config.validation import ConfigError, Mistake, mistake_in

MOST_BYTES = 1 << 20
"""Of a sidecar."""
MOST_LINES, MOST_BRACKETS = 1000, 100
"""Likewise: the time that a parser takes grows with the square of those that are open."""
REFERENCES = 4
"""Pictures of a sidecar, at most, and texts."""
Three = tuple[float, float, float]
Digest = Annotated[str, SHA256]
PLACE = "{}"
"""In a prompt, where the label goes."""


class Levels(NamedTuple):
    """What a network takes for a pixel: (level / 255 - mean) / std of each channel, in the network's order."""

    channels: Literal["RGB", "BGR"]
    mean: Three
    std: Three


NAMED = {
    "levels": Levels("RGB", (0, 0, 0), (1 / 255, 1 / 255, 1 / 255)),
    "unit": Levels("RGB", (0, 0, 0), (1, 1, 1)),
    "symmetric": Levels("RGB", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "imagenet": Levels("RGB", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": Levels("RGB", (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "caffe": Levels("BGR", (103.939 / 255, 116.779 / 255, 123.68 / 255), (1 / 255, 1 / 255, 1 / 255)),
}
"""Preprocessings by name: 0 to 255, 0 to 1, -1 to 1, and the means of ImageNet, CLIP and Caffe."""


def numbers(text: str) -> str:
    """Base64 of float32 numbers. Raises ValueError where it is none."""
    try:
        size = len(base64.b64decode(text, validate=True))
    except ValueError:
        size = 0
    if size % 4 or not size:
        raise ValueError("give base64 of float32, little-endian: b64encode(vector.astype('<f4').tobytes()).decode()")
    return text


Vector = Annotated[str, AfterValidator(numbers)]
"""Base64 of a feature, after pooling and normalisation, float32, little-endian."""


class Reference(Section):
    """A picture that anybody can draw, and the vector that the network gives for it."""

    kind: Literal["tiles", "noise"]
    """What is drawn, see `fruitpipe.reference_picture`."""
    seed: int = Field(ge=0, lt=1 << 32)
    pixels: Digest
    """SHA-256 of its pixels, RGB."""
    vector: Vector

    def __str__(self) -> str:
        return f"{self.kind} {self.seed}"


class Words(Section):
    """A text, and the vector that the text tower gives for it."""

    text: Annotated[str, StringConstraints(min_length=1, max_length=1000)]
    vector: Vector

    def __str__(self) -> str:
        return repr(self.text)


def with_place(prompt: str) -> str:
    """Raises ValueError where a prompt does not say, once, where the label goes."""
    if prompt.count(PLACE) != 1:
        raise ValueError(f"a prompt has {PLACE} once, where the label goes, as in 'a photo of a {PLACE}'")
    return prompt


class TextTower(Section):
    """The network that gives texts vectors in the space of the image features, as CLIP's and SigLIP's do. What can be
    read from it and from its tokenizer may be left out."""

    network: Annotated[
        str, Form(r"^[^/\\:\s]+\.(onnx|tflite)$", "the name of a file beside this one that ends in .onnx or .tflite")
    ]
    """Name of its file, beside the other one."""
    tokenizer: Annotated[str, Form(r"^[^/\\:\s]+\.json$", "the name of a file beside this one that ends in .json")]
    """Likewise of what makes tokens of texts, as Hugging Face's tokenizers write it."""
    lowercase: bool = False
    """Whether texts lose their capitals before, as with SigLIP 2. Tokenizers that do so themselves need not say it."""
    length: int | None = Field(None, ge=1, le=4096)
    """Tokens that it takes: longer texts are cut, shorter ones filled."""
    padding: Text | None = None
    """The token that they are filled with."""
    ids: Text | None = None
    """Name of the input that takes tokens by number."""
    mask: Text | None = None
    """Likewise of the one, where there is one, that takes 1 for each token and 0 for each that fills."""
    output: Text | None = None
    """Name of the output that has as many numbers as the image feature."""
    prompt: Annotated[Text, AfterValidator(with_place)] = f"a photo of a {PLACE}"
    """Text for a label."""
    logit_scale: float | None = Field(None, gt=0, le=1e6)
    """What cosines are multiplied by for a softmax over labels: about 100 for CLIP."""
    references: tuple[Words, ...] | None = Field(None, max_length=REFERENCES)
    """Texts and their vectors, which hold all this to account. An empty list says that there are none."""


class Sidecar(Section):
    """All keys of a sidecar. What can be read from the network may be left out."""

    input: Text | None = None
    """Name of the input."""
    layout: Literal["NCHW", "NHWC"] | None = None
    """Order of the input's axes: channels before height and width, or after them."""
    size: int | None = Field(None, ge=8, le=4096)
    """Height and width of the input, pixels."""
    channels: Literal["RGB", "BGR"] | None = None
    """Their order; RGB where neither this nor the preprocessing says so."""
    preprocessing: Literal["levels", "unit", "symmetric", "imagenet", "clip", "caffe"] | None = None
    """A known one instead of mean and std."""
    mean: Three | None = None
    """Of each channel, in the network's order, of levels from 0 to 1."""
    std: Three | None = None
    """What is divided by, likewise."""
    resize: Literal["stretch", "pad", "crop"] | None = None
    """How images became squares when it was trained: `image.resize` must be the same."""
    crop: Literal["none", "centre"] | None = None
    """Likewise of `image.crop`."""
    resample: Literal["bicubic", "bilinear"] | None = None
    """Likewise of `image.resample`."""
    output: Text | None = None
    """Name of the output that is the feature, or is pooled to it."""
    pooling: Literal["mean", "cls", "average"] | None = None
    """Of tokens, their mean or the first one; of maps, their average."""
    l2_normalise: bool = False
    """Whether features have length 1."""
    licence: Text | None = None
    """Of the weights."""
    source: Text | None = None
    """Where they are from."""
    references: tuple[Reference, ...] | None = Field(None, max_length=REFERENCES)
    """Pictures and their vectors, which hold the keys above to account wherever the network starts. An empty list says
    that there are none."""
    text: TextTower | None = None
    """The network's text tower, where it has one."""

    @model_validator(mode="after")
    def fits(self) -> Self:
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std go together: give both, or a named preprocessing")
        if self.preprocessing and self.mean:
            raise ValueError("preprocessing has a mean and std of its own: leave one of them out")
        means, stds = self.mean or (), self.std or ()
        if not all(0 <= mean <= 1 for mean in means) or not all(0 < std <= 1 for std in stds):
            raise ValueError("mean and std are of levels from 0 to 1: divide those of 0 to 255 by 255")
        if self.text and not self.l2_normalise:
            raise ValueError("texts are compared with features of length 1: set l2_normalise: true, or leave text out")
        return self

    @property
    def levels(self) -> Levels | None:
        """None where nothing is said of mean and std."""
        if self.mean and self.std:
            return Levels(self.channels or "RGB", self.mean, self.std)
        if self.preprocessing is None:
            return None
        known = NAMED[self.preprocessing]
        return known._replace(channels=self.channels or known.channels)

    @property
    def steps(self) -> dict[str, Any]:
        """What it says of how images become squares, by the keys of a config's `image`."""
        return self.model_dump(include={"resize", "crop", "resample"}, exclude_none=True)


def sidecar_of(data: bytes, source: str) -> Sidecar:
    """A sidecar in YAML. Raises ConfigError with the first thing that is wrong with it.

    source: what errors call it.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ConfigError([Mistake("", "not UTF-8: save it so.", 1)], source) from error
    if text.count("\n") > MOST_LINES or text.count("[") + text.count("{") > MOST_BRACKETS:
        raise ConfigError([Mistake("", "too long for a sidecar.", 1)], source)
    tree, lines = mapping_in(text, source)
    try:
        return Sidecar.model_validate(tree)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        mistake = mistake_in(first, lines, Sidecar)
        raise ConfigError([replace(mistake, line=mistake.line or 1)], source) from error
