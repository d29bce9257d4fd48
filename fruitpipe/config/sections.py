"""What may be in a config, with defaults and bounds; JSON Schema and documentation come from here."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    WithJsonSchema,
    model_validator,
)

from fruitpipe.config.backbones import KNOWN, Choice, backbone_name
from fruitpipe.config.places import location
from fruitpipe.config.secrets import secret_free

BackboneName = Annotated[str, AfterValidator(backbone_name), WithJsonSchema({"type": "string", "enum": list(KNOWN)})]
Weights = Annotated[str, StringConstraints(pattern=r"^(imagenet|random:\d+|.+\.(h5|keras))$")]
Text = Annotated[str, StringConstraints(min_length=1)]
Location = Annotated[Text, AfterValidator(location)]
ONE, SEVERAL = "(one)", "(several)"
MIB = 1 << 20


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ImageConfig(Section):
    """How a file becomes pixels, and which files are refused. `resample` is part of the features' identity."""

    resample: Literal["bicubic", "bilinear"] = "bicubic"
    """Filter that resizes an image to the backbone's input."""
    max_bytes: int = Field(64 * MIB, ge=1)
    """Larger files are not read (status `too_large`)."""
    max_pixels: int = Field(50_000_000, ge=1)
    """Images with more pixels are not decoded (status `too_large`)."""
    max_aspect: float = Field(100.0, ge=1, allow_inf_nan=False)
    """Images whose longer side is more than this many times the shorter are not decoded (status `too_large`)."""


class PcaConfig(Section):
    """How many components to keep. With both `components` and `variance` the smaller number wins;
    with neither, 95 % of the variance."""

    components: int | None = Field(None, ge=1)
    """Number of components, cut to the rank of the features."""
    variance: float | None = Field(None, gt=0, le=1)
    """Smallest number of components that explain this share of the variance."""
    scale: bool = True
    """Divide each feature by its standard deviation before the PCA."""


class FailuresConfig(Section):
    """What to do about images that cannot be turned into features."""

    max_rate: float = Field(0.05, ge=0, le=1)
    """Share of failed images beyond which nothing is published (exit code 3)."""
    retry: Literal["transient", "all", "none"] = "transient"
    """Which images that failed in an earlier run are tried again: those whose file could not be read, all, or none."""


class SparkConfig(Section):
    """The embedded Spark. Ignored where a SparkContext is running already, as under spark-submit."""

    master: Text = "local[*]"
    """Spark master URL."""
    memory: str = Field("1g", pattern=r"^[1-9][0-9]*[kmgt]$")
    """Heap of the driver's JVM."""
    conf: dict[str, str] = Field(default_factory=dict)
    """Further Spark settings."""


class S3Config(Section):
    """How to reach s3:// buckets. Never credentials: those come from the environment, a profile or a role."""

    endpoint: Annotated[str, StringConstraints(pattern=r"^https?://[^/?#]+/?$"), AfterValidator(secret_free)] | None = (
        None
    )
    """URL of an S3 server other than AWS."""
    region: Text | None = None
    """Region that buckets must be in; refused where they are elsewhere. Found out where it is not given."""
    path_style: bool | None = None
    """Bucket in the path of a URL instead of its host name. By default for every endpoint but AWS."""
    allow_http: bool = False
    """Accept an endpoint without TLS."""
    ca_file: Text | None = None
    """PEM file of the authority that signed the endpoint's certificate."""
    requester_pays: bool = False
    """Pay for requests to others' buckets."""
    encryption: Literal["AES256", "aws:kms"] | None = None
    """Server-side encryption of what is written, where the bucket's default will not do."""
    kms_key: Text | None = None
    """Id or ARN of the key, with `encryption: aws:kms`."""
    checksum: Literal["sha256"] | None = None
    """Checksum sent with what is written, for the server to check."""
    tags: dict[str, str] = Field(default_factory=dict, max_length=10)
    """Tags of the objects that are written."""

    @model_validator(mode="after")
    def fits(self) -> Self:
        if self.endpoint and self.endpoint.startswith("http://") and not self.allow_http:
            raise ValueError("the endpoint has no TLS: use https://, or say allow_http: true")
        if self.kms_key and self.encryption != "aws:kms":
            raise ValueError("kms_key needs encryption: aws:kms")
        return self


class Config(Section):
    """Everything that a run depends on."""

    input: Annotated[
        Annotated[Location, Tag(ONE)] | Annotated[list[Location], Field(min_length=1), Tag(SEVERAL)],
        Discriminator(lambda value: SEVERAL if isinstance(value, list) else ONE),
    ]
    """Images: a folder, searched recursively, a glob, or a manifest (Parquet, CSV, JSON lines, text, S3 Inventory);
    on disk or as s3://bucket/folder. Several as a list."""
    output: Location
    """Folder of results, on disk or as s3://bucket/folder; made if it does not exist."""
    labels: Literal["parent", "none"] = "parent"
    """Label of an image: the name of its folder, or none."""
    backbone: BackboneName = "mobilenet_v2"
    """Network that gives the features: efficientnet_lite0, or a model of keras.applications, such as resnet50."""
    layer: str | int | None = None
    """Layer whose output is the feature, by name or by index as Keras counts; the one before the classifier where
    nothing is said."""
    pooling: Literal["avg", "max", "none"] = "avg"
    """What a layer's output with height and width becomes: means, maxima, or all values in a row."""
    weights: Weights = "imagenet"
    """imagenet, random:SEED, or a file: weights of the same network (.weights.h5), or a whole model of your own
    (.keras, .h5) that takes images as the backbone does."""
    verify_content: bool = False
    """Tell changed images by a hash of their bytes instead of size and modification time; reads every image."""
    model: Literal["fit", "reuse"] = "fit"
    """Fit scaler and PCA on these images, or reuse those of an earlier run, so that vectors stay comparable."""
    reuse: Location = "latest"
    """With `model: reuse`: a run id of the same output, `latest`, or the path of a model folder."""
    formats: list[Literal["json", "csv"]] = Field(default_factory=list)
    """Further formats of the vectors, beside Parquet."""
    evaluate: bool = False
    """Report how well nearest neighbours and a logistic regression tell labels, on a sample, with all features and with
    8, 16, 32 … components: what the reduction costs."""
    image: ImageConfig = Field(default_factory=ImageConfig)
    pca: PcaConfig = Field(default_factory=PcaConfig)
    failures: FailuresConfig = Field(default_factory=FailuresConfig)
    s3: S3Config = Field(default_factory=S3Config)
    spark: SparkConfig = Field(default_factory=SparkConfig)

    @model_validator(mode="after")
    def has_labels(self) -> Self:
        if self.evaluate and self.labels == "none":
            raise ValueError("evaluate: true needs labels: say labels: parent, or evaluate: false")
        return self

    @property
    def network(self) -> Choice:
        """What is said of the backbone."""
        return Choice(self.backbone, self.layer, self.pooling, self.weights)

    @property
    def inputs(self) -> list[str]:
        """The input as a list."""
        return [self.input] if isinstance(self.input, str) else self.input
