"""The sections of a config, with defaults and bounds; the JSON Schema and its descriptions come from here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    StringConstraints,
    Tag,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema

from fruitpipe.config.families import BACKBONE_KEYS, backbone_name, find_family, names_schema
from fruitpipe.config.formats import FormatSchema, format_name
from fruitpipe.config.forms import SHA256, Form
from fruitpipe.config.names import RECORDED
from fruitpipe.config.places import listed, location, text_of
from fruitpipe.config.presets import PRESETS, keys_of, overlaid, preset_name
from fruitpipe.config.secrets import NAMES_NO_SECRET, NO_SECRET, SECRET_FREE
from fruitpipe.config.weights import WEIGHTS, is_saved_model, weights_name


class NamesSchema:
    """JSON Schema of a backbone's name, computed when it is asked for: a config alone loads no family but its own."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return names_schema()


BackboneName = Annotated[str, BeforeValidator(text_of), AfterValidator(backbone_name), NamesSchema()]
Weights = Annotated[
    str,
    NO_SECRET,
    BeforeValidator(text_of),
    AfterValidator(weights_name),
    WithJsonSchema(SECRET_FREE | {"pattern": WEIGHTS}),
]
PresetName = Annotated[str, AfterValidator(preset_name), WithJsonSchema({"type": "string", "enum": list(PRESETS)})]
Text = Annotated[str, StringConstraints(min_length=1), NO_SECRET]
File = Annotated[Text, BeforeValidator(text_of)]
Location = Annotated[File, AfterValidator(location)]
Endpoint = Annotated[str, Form(r"^https?://[^/?#]+/?$", "a URL such as https://s3.example:9000"), NO_SECRET]
Events = Annotated[File, Form(r"^(https?://.+|[^:]+)$", "a URL such as https://marquez.example, or the path of a file")]
Folder = Annotated[
    str,
    Form(
        r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$",
        "a name of at most 64 letters, digits, `_`, `-` and `.` that begins with none of the last two",
    ),
]
Master = Annotated[
    Text,
    Form(
        r"^(auto|local(\[([1-9][0-9]*|\*)( *, *[1-9][0-9]*)?\])?|local-cluster\[ *[0-9]+ *, *[0-9]+ *, *[0-9]+ *\]"
        r"|(spark|k8s)://.+|yarn)$",
        "auto or a Spark master, such as local[4], local[*], spark://host:7077, k8s://https://host:443 or yarn",
        always=False,  # it was passed over where there was a Spark
    ),
]
ONE, SEVERAL, WORD, MAPPING = "(one)", "(several)", "(word)", "(mapping)"
TAGS = {ONE, SEVERAL, WORD, MAPPING, "[key]"}
"""Which of the forms a value has, or that it is a name itself; no part of a key."""
MIB = 1 << 20
MOST = 1 << 62
"""Of what the system or a database counts: to it, something may be added."""
LEAST_COSINE = 0.99
"""Between features in int8 and in float32, where nothing is said."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, hide_input_in_errors=True)

    @field_validator("*", mode="before")
    @classmethod
    def no_truth(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML's `yes` is true, which Python would take for the number 1."""
        kinds = {(kind := cls.model_fields[info.field_name or ""].annotation), *get_args(kind)}
        if isinstance(value, bool) and kinds & {int, float} and bool not in kinds:
            raise ValueError(f"{str(value).lower()} is no number")
        return value


class StepsConfig(Section):
    """How a file becomes the pixels that a backbone sees, in the order of these keys."""

    decode: Literal["scaled", "exact"] = "scaled"
    """Decode large JPEGs at 1/2, 1/4 or 1/8, with at least 5 pixels for each that the backbone sees: two to three times
    as fast, and features change less than by saving the photograph again in quality 95. Or all of them whole, as where
    they are trimmed. Small images and other formats are the same either way. For bags of visual words, exact is the
    default."""
    background: Literal["keep", "trim"] = "keep"
    """Keep the whole image, or trim its border as far as it has one colour: that of the corners, give or take 24 of
    255 levels. An image that is all background stays whole; transparent pixels count as white."""
    crop: Literal["none", "centre"] = "none"
    """Keep the whole image, or the central 87.5 % of each side, as is usual with ImageNet."""
    grey: bool = False
    """Replace colours by their luminance. Bags of visual words see nothing else, so that true is their default."""
    resize: Literal["stretch", "pad", "crop"] = "stretch"
    """How an image becomes the square that a backbone takes: stretched; fitted in, and the rest filled with the colour
    of its corners; or so that it fills the square, and what overhangs is cut off."""
    resample: Literal["bicubic", "bilinear"] = "bicubic"
    """Filter that resizes an image to the backbone's input."""
    denoise: bool = False
    """Replace each pixel by the median of the 3 x 3 around it."""
    equalise: Literal["none", "histogram", "adaptive"] = "none"
    """Spread luminance evenly over its range, colours staying: over the whole image, or in 8 x 8 tiles with a limit of
    contrast (CLAHE)."""
    contrast: bool = False
    """Stretch to the full range of brightness, but for the 0.5 % of pixels at either end; all channels alike, so that
    colours stay."""


class ImageConfig(StepsConfig):
    """How a file becomes the pixels that a backbone sees, in the order of these keys, and which files are refused."""

    max_bytes: int = Field(64 * MIB, ge=1, le=MOST)
    """Larger files are not read (status `too_large`)."""
    max_pixels: int = Field(50_000_000, ge=1)
    """Images with more pixels are not decoded (status `too_large`)."""
    max_aspect: float = Field(100.0, ge=1, allow_inf_nan=False)
    """Images whose longer side is more than this many times the shorter are not decoded (status `too_large`)."""
    max_memory: int = Field(512 * MIB, ge=16 * MIB, le=MOST)
    """Bytes of memory that decoding one image may take, its file included (status `too_large`). What is not sure to
    take less than an eighth of the default is decoded in a process of its own, on Linux."""
    max_seconds: int = Field(20, ge=1, le=MOST)
    """CPU time that decoding one image may take, seconds (status `too_slow`)."""

    @property
    def steps(self) -> dict[str, str | bool]:
        """Settings that decide which pixels a backbone sees; part of the features' identity."""
        return self.model_dump(include=set(StepsConfig.model_fields))

    @model_validator(mode="before")
    @classmethod
    def recorded_before_there_was_a_choice(cls, data: Any, info: ValidationInfo) -> Any:
        """What results and models of an earlier fruitpipe say: images were decoded whole."""
        return {"decode": "exact"} | data if info.context == RECORDED and isinstance(data, dict) else data

    @property
    def scales(self) -> bool:
        """Whether large JPEGs are decoded smaller. Trimming looks for dust in means of as many pixels as there are."""
        return self.decode == "scaled" and self.background == "keep"

    @property
    def steps_taken(self) -> dict[str, str | bool]:
        """Steps, beside resampling, that differ from a plain picture."""
        plain = ImageConfig(decode="exact").steps
        steps = self.steps | {"decode": "scaled" if self.scales else "exact"}
        return {name: value for name, value in steps.items() if name != "resample" and value != plain[name]}


class PcaConfig(Section):
    """How many components to keep. With both `components` and `variance` the smaller number wins;
    with neither, 95 % of the variance."""

    components: int | None = Field(None, ge=1)
    """Number of components, cut to the rank of the features."""
    variance: float | None = Field(None, gt=0, le=1)
    """Smallest number of components that explain this share of the variance."""
    scale: bool = True
    """Divide each feature by its standard deviation before the PCA."""


class WordsConfig(Section):
    """Visual words of `backbone: orb` and `backbone: sift`: a feature counts how often each comes up in an image."""

    size: int = Field(48, ge=2, le=8192)
    """Number of words."""
    images: int = Field(1000, ge=1, le=100_000)
    """Images that the words are learnt from, at most; drawn by their paths."""
    keypoints: int = Field(500, ge=1, le=100_000)
    """Keypoints of an image, at most: the strongest."""
    side: int = Field(320, ge=64, le=4096)
    """Height and width to which images are resized, pixels. More show finer keypoints, and cost more."""


def word_or_mapping(value: Any) -> Any:
    """Accept `none` or a mapping. Raises ValueError for anything else, such as an empty `pca:`."""
    if value == "none" or isinstance(value, Mapping | PcaConfig):
        return value
    raise ValueError("expected none, or a mapping such as {variance: 0.95}")


class NeighboursConfig(Section):
    """Which neighbours of each image a run finds, in Parquet files beside its vectors."""

    k: int = Field(12, ge=1, le=1000)
    """How many of them: the nearest."""
    metric: Literal["cosine", "euclidean"] = "cosine"
    """By the angle between vectors, or by their distance."""


class FailuresConfig(Section):
    """What to do about images that cannot be turned into features."""

    max_rate: float = Field(0.05, ge=0, le=1)
    """Share of failed images beyond which nothing is published (exit code 3)."""
    retry: Literal["transient", "all", "none"] = "transient"
    """Which images that failed in an earlier run are tried again: those that may be read another time or cost no
    inference (status `missing`, `forbidden`, `unreadable`, `changed`, `too_large`, `rejected`), all, or none."""


class ListsConfig(Section):
    """What lists of images may name. A list on disk names files below its own folder, and objects of any bucket; one in
    a bucket, objects of that bucket."""

    allow: list[Location] = Field(default_factory=list)
    """Further folders, buckets or prefixes whose images lists may name, such as /photos or s3://bucket."""


def as_text(value: object) -> object:
    """A number, true or false, as YAML has them, as Spark spells them."""
    return str(value).lower() if isinstance(value, int | float) else value


class SparkConfig(Section):
    """The embedded Spark. Ignored where a SparkContext is running already, as under spark-submit."""

    master: Master = "auto"
    """Spark master URL. `auto`: processes of this machine run the tasks, and local[*] where what remains takes long."""
    memory: Annotated[str, Form(r"^[1-9][0-9]*[kmgt]$", "a size such as 2g or 512m")] = "1g"
    """Heap of the driver's JVM."""
    conf: dict[Annotated[str, NAMES_NO_SECRET], Annotated[str, BeforeValidator(as_text), NO_SECRET]] = Field(
        default_factory=dict
    )
    """Further Spark settings."""


class S3Config(Section):
    """How to reach s3:// buckets. Never credentials: those come from the environment, a profile or a role."""

    endpoint: Endpoint | None = None
    """URL of an S3 server other than AWS."""
    region: Text | None = None
    """Region that buckets must be in; refused where they are elsewhere. Found out where it is not given."""
    path_style: bool | None = None
    """Bucket in the path of a URL instead of its host name. By default for every endpoint but AWS."""
    allow_http: bool = False
    """Accept an endpoint without TLS."""
    ca_file: File | None = None
    """PEM file of the authority that signed the endpoint's certificate."""
    requester_pays: bool = False
    """Pay for requests to others' buckets."""
    encryption: Literal["AES256", "aws:kms"] | None = None
    """Server-side encryption of what is written, where the bucket's default will not do."""
    kms_key: Text | None = None
    """Id or ARN of the key, with `encryption: aws:kms`."""
    checksum: Literal["sha256"] | None = None
    """Checksum sent with what is written, for the server to check."""
    tags: dict[str, Annotated[str, NO_SECRET]] = Field(default_factory=dict, max_length=10)
    """Tags of the objects that are written."""

    def __hash__(self) -> int:
        """Hash of all settings, so that they can be the key of a cache of connections."""
        return hash((*self.model_dump(exclude={"tags"}).values(), frozenset(self.tags.items())))

    @model_validator(mode="after")
    def fits(self) -> Self:
        if self.endpoint and self.endpoint.startswith("http://") and not self.allow_http:
            raise ValueError("the endpoint has no TLS: use https://, or set allow_http: true")
        if self.kms_key and self.encryption != "aws:kms":
            raise ValueError("kms_key needs encryption: aws:kms")
        return self


class IcebergConfig(Section):
    """An Iceberg table in which the vectors of the published run are registered, without a copy. Extra `iceberg`."""

    catalog: Text = "default"
    """Name of a catalog (SQL, REST, Glue …) in PyIceberg's own settings: ~/.pyiceberg.yaml, or variables such as
    PYICEBERG_CATALOG__DEFAULT__URI."""
    table: Annotated[str, Form(r"^\w+(\.\w+)+$", "a namespace and a name with a dot between, such as fruits.vectors")]
    """Namespace and name, such as fruits.vectors; made where it is missing."""


class DeltaConfig(Section):
    """A Delta table in which the vectors of the published run are registered, without a copy: the output itself is the
    table. Extra `delta`."""

    storage: dict[Annotated[str, NAMES_NO_SECRET], Annotated[str, NO_SECRET]] = Field(default_factory=dict)
    """Options of delta-rs for its object store, such as aws_endpoint. It takes credentials from the environment."""


class PublishConfig(Section):
    """Tables that hold the published run, beside its files: each run replaces the last one's in one commit."""

    iceberg: IcebergConfig | None = None
    """Its table."""
    delta: DeltaConfig | None = None
    """Its table; {} for a plain one."""


class TrackConfig(Section):
    """Services that are notified of each run. One that cannot be reached costs a note, never the run."""

    mlflow: Text | None = None
    """Tracking URI of MLflow, such as https://mlflow.internal, which gets a run of its own for each. Extra `mlflow`; it
    takes credentials from its own variables, such as MLFLOW_TRACKING_TOKEN."""
    openlineage: Events | None = None
    """URL of an OpenLineage server, such as Marquez, or a file to which events are added. Extra `openlineage`; the key
    of a server comes from OPENLINEAGE_API_KEY."""


class BackboneConfig(Section):
    """What gives the features."""

    backbone: BackboneName = "mobilenet_v2"
    """What gives the features: efficientnet_lite0, a model of keras.applications, such as resnet50, a bag of visual
    words (orb or sift), a network in a file (model.onnx or model.tflite, also in a bucket or behind https://) with
    model.yaml beside it, or a class of your own (package.module:Class)."""
    sha256: Annotated[str, SHA256] | None = None
    """SHA-256 that a network's file must have; required for one from https://."""
    layer: str | int | None = None
    """Layer whose output is the feature, by name or by index as Keras counts. Where nothing is said, the one before the
    classifier; of VGG, block5_pool: up to `fc2`, it has seven to nine times the weights."""
    pooling: Literal["avg", "max", "none"] = "avg"
    """What a layer's output with height and width becomes: means, maxima, or all values in a row."""
    weights: Weights = "imagenet"
    """imagenet, random:SEED, or a file: weights of the same network (.weights.h5), or a whole model of your own
    (.keras, .h5, or a SavedModel as a folder that ends in a slash) that takes images as the backbone does. What a
    SavedModel serves is the feature."""
    engine: Literal["auto", "litert", "openvino"] = "auto"
    """What runs the network: LiteRT, or OpenVINO where it is installed (the extra `openvino`). auto takes OpenVINO for
    networks of 20 million parameters and more, such as resnet50: it needs less CPU time for those."""
    precision: Literal["float32", "bf16", "int8"] = "float32"
    """bf16 takes half to two thirds of the CPU time, by OpenVINO on CPUs with AVX512-BF16 or AMX. int8 takes about as
    much, on any CPU, by LiteRT and a network that is made of what some of the run's images show (the extra `int8`).
    Both change features: every run then compares them with float32's on some of its images."""
    min_cosine: float | None = Field(None, ge=0, le=1)
    """Least cosine between features of an image in such a precision and in float32: a run is refused where one of those
    compared has a lower one. By default 0.99 for int8, and none for bf16."""
    words: WordsConfig = Field(default_factory=WordsConfig)

    @property
    def least_cosine(self) -> float | None:
        """Below which a precision is refused; None where there is no bound."""
        return LEAST_COSINE if self.precision == "int8" and self.min_cosine is None else self.min_cosine

    def check_backbone(self) -> None:
        """Raise ValueError where keys do not fit the backbone or each other."""
        if self.precision == "bf16" and self.engine == "litert":
            raise ValueError("LiteRT does not compute in bf16: leave engine or precision out")
        if self.precision == "int8" and self.engine == "openvino":
            raise ValueError("int8 is LiteRT's: leave engine or precision out")
        if self.precision == "float32" and self.min_cosine is not None:
            raise ValueError(
                "min_cosine is for a precision that changes features: leave it out, or set precision: int8"
            )
        family = find_family(self.backbone)
        for name in BACKBONE_KEYS:
            is_taken = family is None or name in family.keys
            if not is_taken and name in self.model_dump(exclude_defaults=True):
                raise ValueError(f"{self.backbone} has no {name}: leave `{name}` out, or choose another backbone")
        if self.backbone.startswith("https://") and self.sha256 is None:
            raise ValueError("a backbone from https:// needs its `sha256`, so that it is the one that you mean")

    @field_validator("weights")
    @classmethod
    def served_whole(cls, weights: str, info: ValidationInfo) -> str:
        if is_saved_model(weights) and info.data.get("layer") is not None:
            raise ValueError(
                "a SavedModel has no layers to pick from: leave `layer` out, and export a model that ends at it"
            )
        return weights


class BackboneEntry(BackboneConfig):
    """One of several backbones: its own keys."""

    name: Folder | None = None
    """Folder of its result, below the output; by default the backbone, without the folders of a file."""
    backbone: BackboneName
    """As `backbone` of one."""
    image: StepsConfig = Field(default_factory=StepsConfig)
    """Steps that differ from `image` for all."""

    @model_validator(mode="after")
    def fits(self) -> Self:
        self.check_backbone()
        return self


NameOrEntry = Annotated[
    Annotated[BackboneName, Tag(WORD)] | Annotated[BackboneEntry, Tag(MAPPING)],
    Discriminator(lambda value: MAPPING if isinstance(value, Mapping | BackboneEntry) else WORD),
]


class Config(BackboneConfig):
    """Everything that a run depends on."""

    input: Annotated[
        Annotated[Location, Tag(ONE)] | Annotated[list[Location], Field(min_length=1), Tag(SEVERAL)],
        Discriminator(lambda value: SEVERAL if isinstance(value, list) else ONE),
        BeforeValidator(listed),
    ]
    """Images: a folder, searched recursively, a glob, or a list of them (Parquet, CSV, JSON lines, text, S3 Inventory);
    on disk or as s3://bucket/folder. Several as a list."""
    output: Location
    """Folder of results, on disk or as s3://bucket/folder; made if it does not exist."""
    preset: PresetName | None = None
    """Settings to begin with, one of `fruitpipe presets`; keys set besides win."""
    limit: int | None = Field(None, ge=1, le=MOST)
    """Take only the first images by path, this many: to try a config."""
    labels: Literal["parent", "none"] = "parent"
    """Label of an image: the name of its folder, or none."""
    backbones: Annotated[list[NameOrEntry], Field(min_length=1)] | None = None
    """Several instead of `backbone`, each a name or a mapping with `backbone` and its keys, and each with a result of
    its own in a folder below the output: an image is fetched and decoded once for all."""
    verify_content: bool = False
    """Detect changed images by a hash of their content instead of size and modification time; reads every image."""
    model: Literal["fit", "reuse"] = "fit"
    """Fit scaler and PCA on these images, or reuse those of an earlier run, so that vectors stay comparable."""
    reuse: Location = "latest"
    """With `model: reuse`: a run id of the same output, `latest`, or the path of a model folder."""
    formats: list[Annotated[str, AfterValidator(format_name), FormatSchema()]] = Field(default_factory=list)
    """Further formats of the vectors, beside Parquet: json, csv, csv-raw, in which texts are as they are also where a
    spreadsheet would compute them, and those that other packages bring."""
    one_file: bool = False
    """One file each of these formats, vectors.jsonl and vectors.csv, instead of parts."""
    evaluate: bool = False
    """Report how well nearest neighbours and a logistic regression tell labels, on a sample, with all features and with
    8, 16, 32 … components: what the reduction costs."""
    explore: bool = False
    """Write a page that shows all images on a map, beside the report, as `fruitpipe explore` does."""
    thumbnails: int | None = Field(None, ge=16, le=96, multiple_of=16)
    """Keep a small picture of each image beside its features, with so many pixels a side, such as 48: for the page of
    all images. Images whose features are known already get none."""
    neighbours: NeighboursConfig | None = None
    """Find the nearest images of each image, all compared with all."""
    image: ImageConfig = Field(default_factory=ImageConfig)
    pca: Annotated[
        Annotated[Literal["none"], Tag(WORD)] | Annotated[PcaConfig, Tag(MAPPING)],
        Discriminator(lambda value: WORD if isinstance(value, str) else MAPPING),
        BeforeValidator(word_or_mapping),
    ] = Field(default_factory=PcaConfig)
    """How features become vectors, or none: the features are the vectors."""
    failures: FailuresConfig = Field(default_factory=FailuresConfig)
    lists: ListsConfig = Field(default_factory=ListsConfig)
    publish: PublishConfig = Field(default_factory=PublishConfig)
    track: TrackConfig = Field(default_factory=TrackConfig)
    s3: S3Config = Field(default_factory=S3Config)
    spark: SparkConfig = Field(default_factory=SparkConfig)

    @model_validator(mode="before")
    @classmethod
    def on_top_of_preset_and_backbone(cls, values: Any, info: ValidationInfo) -> Any:
        if not isinstance(values, Mapping):
            return values
        if info.context == RECORDED:  # what was recorded has all its keys, but for `image` at first
            return {"image": {}} | dict(values)
        given = {
            name: value.model_dump(exclude_unset=True) if isinstance(value, Section) else value
            for name, value in values.items()
        }
        name = given.get("preset")
        if isinstance(name, str) and name in PRESETS:
            given = overlaid(keys_of(name), given)
        name = given.get("backbone")
        if isinstance(name, str) and (family := find_family(name)):
            given = overlaid(family.defaults, given)
        return given

    @model_validator(mode="after")
    def fits(self, info: ValidationInfo) -> Self:
        if info.context == RECORDED:  # a name in somebody's manifest loads no package that might know it
            return self
        if self.backbones is None:
            self.check_backbone()
        else:
            self.check_backbones()
        if self.model == "fit" and self.reuse != "latest":
            raise ValueError("reuse names a model, and model: fit makes one: set model: reuse, or leave reuse out")
        if self.evaluate and self.labels == "none":
            raise ValueError("evaluate: true needs labels: set labels: parent, or evaluate: false")
        return self

    def check_backbones(self) -> None:
        """Raise ValueError where keys are of one backbone or one result, and there are several."""
        if self.preset:
            raise ValueError(f"preset {self.preset} has a backbone of its own: leave `preset` or `backbones` out")
        if "backbone" in self.model_fields_set:
            raise ValueError("set `backbone` or `backbones`, not both")
        for name in BACKBONE_KEYS:
            if name in self.model_dump(exclude_defaults=True):
                raise ValueError(
                    f"{name} belongs to one backbone: set it there, backbones: [{{backbone: …, {name}: …}}]"
                )
        if self.model == "reuse" and self.reuse != "latest":
            raise ValueError("several backbones reuse a model each: set reuse: latest, or name one backbone")
        if self.publish.iceberg:
            raise ValueError(
                "publish.iceberg is one table, which each of several backbones would replace: name one backbone"
            )
        folders = [folder.casefold() for folder in map(result_name, self.backbones or ())]
        if twice := next((folder for folder in folders if folders.count(folder) > 1), None):
            raise ValueError(f"two backbones are called {twice}: give each a `name`")

    @property
    def inputs(self) -> list[str]:
        """The input as a list."""
        return [self.input] if isinstance(self.input, str) else self.input

    @property
    def outputs(self) -> dict[str, str]:
        """Where the result of each of several backbones lies, by its name; of one, the output by no name."""
        if self.backbones is None:
            return {"": self.output}
        return {folder: f"{self.output.rstrip('/')}/{folder}" for folder in map(result_name, self.backbones)}

    @property
    def parts(self) -> dict[str, Config]:
        """A config for each of several backbones by its name, with its own output; of one, this one by no name."""
        if self.backbones is None:
            return {"": self}
        shared = self.model_dump(exclude_unset=True, exclude={"backbones"})
        limits = self.image.model_dump(exclude=set(StepsConfig.model_fields))
        found = {}
        for each in self.backbones:
            own = {"backbone": each} if isinstance(each, str) else each.model_dump(exclude_unset=True, exclude={"name"})
            folder = result_name(each)
            output = {"output": self.outputs[folder], "image": limits}
            found[folder] = Config.model_validate(overlaid(overlaid(shared, own), output))
        return found


def result_name(entry: str | BackboneEntry) -> str:
    """The folder of a backbone's result."""
    if isinstance(entry, BackboneEntry) and entry.name:
        return entry.name
    backbone = entry if isinstance(entry, str) else entry.backbone
    return re.sub(r"[^\w.-]+", "-", PurePosixPath(backbone).name, flags=re.ASCII).lstrip(".-")[:64] or "backbone"
