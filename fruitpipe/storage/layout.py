"""Names of all objects in a result, and how large they may be.

What a result says of names is checked here against the form that fruitpipe gives them, by `checked`: a result
is made by whoever can write there, and may say anything.

OUT/
  fruitpipe.json                       marks a result, with the version of this layout
  lease.json                           who is writing, while somebody is
  latest.json                          the published run
  _delta_log/                          delta-rs's own, with `publish: {delta: …}`
  features/<features digest>/part-<rows digest>.parquet    cache, shared by all runs
  features/<features digest>/thumbnails-<side>/part-<rows digest>.webp   of the images of that part
  features/<features digest>/merged-<digest of their names>.json   which parts were merged into which
  features/<features digest>/facts-<digest of their names>.parquet   what these parts say of their images
  features/vocabularies/<digest of what it was learnt from>.npz   likewise
  features/networks/<digest of what it was calibrated on>.tflite   likewise
  runs/<run id>/
    config.yaml  outcome.json  manifest.json (last)  report.html  explore.html  failures.parquet  log.gz
    manifest-files.parquet  manifest-feature_parts.parquet    lists of the manifest, where they are long
    vectors/part-00000.parquet …  json/part-00000.jsonl …  csv/part-00000.csv …
    csv-raw/part-00000.csv …
    vectors.jsonl  vectors.csv  vectors-raw.csv    instead of parts, with one_file
    sinks/<name>/…                     what other formats are made of
    model/                             pca.npz (unless pca: none), model.json, and what its engine needs
    neighbours/<metric>-<k>/part-00000.parquet …   as many as vectors, of the same images
    neighbours/<metric>-<k>.json       what these are; written when all are there, perhaps long after the manifest
    work/                              of an unfinished run: todo, index, further, again, moments, engine
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from reprlib import repr as shortened
from typing import Annotated

import pyarrow as pa
from pydantic import AfterValidator

MARKER = "fruitpipe.json"
LEASE = "lease.json"
LATEST = "latest.json"
FEATURES = "features"
RUNS = "runs"
FOLDERS = (FEATURES, RUNS)
"""All that a result has."""
MANIFEST = "manifest.json"
TODO, INDEX = "todo", "index"
"""What tasks are to do: images without features, and where features lie."""
FURTHER, AGAIN = "further", "again"
"""Indexes of images beside parts that are taken over, and of parts that were to be and are damaged."""
VERSION = 1
SUFFIX = {"parquet": "parquet", "json": "jsonl", "csv": "csv", "csv-raw": "csv"}
FOLDER = {"parquet": "vectors", "json": "json", "csv": "csv", "csv-raw": "csv-raw"}
WHOLE = {"json": "vectors.jsonl", "csv": "vectors.csv", "csv-raw": "vectors-raw.csv"}

FACTS = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("etag", pa.string(), nullable=False),
        pa.field("content", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", pa.string()),
    ]
)
"""Columns of a feature part, besides `feature`."""
UNREADABLE = (pa.ArrowException, ValueError, KeyError, OSError)
"""What reading Parquet raises where it is damaged, or another's."""

HEX = "[0-9a-f]"
RUN = rf"\d{{8}}-\d{{6}}-{HEX}{{4}}"
OBJECT_NAME = re.compile(
    rf"""
    features/(
        {HEX}{{16}}/(
            (part | facts)-{HEX}{{32}}\.parquet | merged-{HEX}{{32}}\.json | thumbnails-\d{{2}}/part-{HEX}{{32}}\.webp
        )
        | vocabularies/{HEX}{{32}}\.npz | networks/{HEX}{{32}}\.tflite
    ) | runs/{RUN}/(
        config\.yaml | outcome\.json | manifest\.json | (report | explore)\.html | failures\.parquet | log\.gz
        | manifest-(files | feature_parts)\.parquet
        | (vectors | json | csv | csv-raw)/part-\d{{5,}}\.(parquet | jsonl | csv) | vectors(\.jsonl | (-raw)?\.csv)
        | model/[\w-]+\.(npz | json | tflite | zip | bin) | work/[\w-]+\.(parquet | npz | engine)
        | neighbours/(cosine | euclidean)-\d{{1,4}}(\.json | /part-\d{{5,}}\.parquet)
        | sinks/[\w-]+/[\w-][\w.-]*
    )""",
    re.VERBOSE | re.ASCII,
)
FEATURE_PART = re.compile(rf"features/{HEX}{{16}}/part-{HEX}{{32}}\.parquet")
THUMBNAILS = re.compile(
    rf"(?P<folder>features/{HEX}{{16}})/thumbnails-(?P<side>\d{{2}})/(?P<part>part-{HEX}{{32}})\.webp", re.ASCII
)
LEARNT = re.compile(rf"features/(vocabularies/{HEX}{{32}}\.npz|networks/{HEX}{{32}}\.tflite)")
NEIGHBOURS = re.compile(rf"(?P<found>runs/{RUN}/neighbours/(cosine|euclidean)-\d{{1,4}})(\.json|/.+)", re.ASCII)
FACTS_INDEX = re.compile(rf"features/{HEX}{{16}}/facts-{HEX}{{32}}\.parquet")
MERGE = re.compile(rf"features/{HEX}{{16}}/merged-{HEX}{{32}}\.json")
SCRATCH = re.compile(rf"features/\.{HEX}{{16}}\.tmp")
PARTIAL = re.compile(rf"(?P<folder>.*/)\.(?P<name>[^/]+)\.{HEX}{{8}}\.tmp")
"""What is left on disk of a file whose writing was interrupted."""

MIB = 1 << 20
MOST_BYTES = {
    **dict.fromkeys((MARKER, LEASE, LATEST, "outcome.json", "model.json", "backbone.json"), MIB),
    MANIFEST: 128 * MIB,  # of a run whose images have a million labels
    **dict.fromkeys(("manifest-files.parquet", "manifest-feature_parts.parquet"), 128 * MIB),
    "vocabulary.npz": 64 * MIB,
}
MOST_OF_A_MERGE = 8 * MIB
MOST_OF_THUMBNAILS = 64 * MIB
MOST_OF_ANY = 4096 * MIB
"""Flatbuffers have half of it at most."""


def most_bytes(name: str) -> int:
    """How large an object of this name may be, in a result or a model's folder."""
    if is_merge(name):
        return MOST_OF_A_MERGE
    if THUMBNAILS.fullmatch(name):
        return MOST_OF_THUMBNAILS
    return MIB if is_neighbours(name) else MOST_BYTES.get(name.rpartition("/")[2], MOST_OF_ANY)


def is_ours(name: str) -> bool:
    """Whether an object below `features` or `runs` has a name that fruitpipe gives, whole or half written."""
    if partial := PARTIAL.fullmatch(name):
        name = partial["folder"] + partial["name"]
    return bool(OBJECT_NAME.fullmatch(name) or SCRATCH.fullmatch(name))


def is_partial(name: str) -> bool:
    """Whether an object of ours is half written, or one of a moment."""
    return bool(PARTIAL.fullmatch(name) or SCRATCH.fullmatch(name))


def is_run(name: str) -> bool:
    """Whether a name is the id of a run."""
    return re.fullmatch(RUN, name, re.ASCII) is not None


def is_run_file(name: str) -> bool:
    """Whether a name is one of a file within a run, as manifests have it."""
    return OBJECT_NAME.fullmatch(run("00000000-000000-0000", name)) is not None


def is_feature_part(name: str) -> bool:
    return FEATURE_PART.fullmatch(name) is not None


def of_thumbnails(name: str) -> tuple[str, int] | None:
    """The feature part whose images an object shows small, and their side in pixels, where it is one of thumbnails."""
    found = THUMBNAILS.fullmatch(name)
    return (f"{found['folder']}/{found['part']}.parquet", int(found["side"])) if found else None


def is_facts_index(name: str) -> bool:
    """Whether an object holds what feature parts say of their images."""
    return FACTS_INDEX.fullmatch(name) is not None


def is_merge(name: str) -> bool:
    """Whether an object is the record of a merge of feature parts."""
    return MERGE.fullmatch(name) is not None


def is_neighbours(name: str) -> bool:
    """Whether an object is the record of the neighbours of a run."""
    return neighbours_of(name) == name


def is_feature(name: str) -> bool:
    """Whether an object is what a run takes its features from: a part, or what the run's images have taught."""
    return is_feature_part(name) or LEARNT.fullmatch(name) is not None


def checked(form: Callable[[str], bool]) -> AfterValidator:
    """Validation of a name in a document by its form."""
    return AfterValidator(partial(require, form))


def require(form: Callable[[str], bool], name: str) -> str:
    """The name, if it has a form. Raises ValueError where it has not."""
    if not form(name):
        raise ValueError(f"{shortened(name)} is not a name that fruitpipe gives")
    return name


RunId = Annotated[str, checked(is_run)]


def new_run_id() -> str:
    """Sorts by time of start; the random end keeps two of one second apart."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def scratch() -> str:
    """A name for an object of a moment, which `gc` clears away where a crash has left it."""
    return f"{FEATURES}/.{secrets.token_hex(8)}.tmp"


def features(digest: str) -> str:
    return f"{FEATURES}/{digest[:16]}"


def feature_part(digest: str, rows: Iterable[Iterable[str]]) -> str:
    """The part of rows that are told by these texts: two attempts of one task write the same object."""
    hashed = hashlib.sha256()
    for row in rows:
        hashed.update("".join([*(f"{len(text)} {text} " for text in row), "\n"]).encode())
    return part(digest, hashed.hexdigest())


def part(digest: str, rows: str) -> str:
    """The feature part whose rows have this digest."""
    return f"{features(digest)}/part-{rows[:32]}.parquet"


def rows_digest(part: str) -> str:
    """What tells a feature part from others of its folder."""
    return part.removesuffix(".parquet").rpartition("/part-")[2]


def facts_index(parts: Iterable[str]) -> str:
    """What these feature parts, of one folder, say of their images."""
    return beside(parts, "facts-{}.parquet")


def beside(parts: Iterable[str], form: str) -> str:
    """An object that stands for feature parts of one folder, beside them, named by a digest of their names."""
    names = sorted(parts)
    return f"{names[0].rpartition('/')[0]}/{form.format(hashlib.sha256(' '.join(names).encode()).hexdigest()[:32])}"


def thumbnails(part: str, side: int) -> str:
    """Thumbnails of the images of a feature part, with so many pixels a side, beside it."""
    folder, _, name = part.removesuffix(".parquet").rpartition("/")
    return f"{folder}/thumbnails-{side}/{name}.webp"


def merge_record(replaced: Iterable[str]) -> str:
    """The record of what has replaced these feature parts, beside them."""
    return beside(replaced, "merged-{}.json")


def vocabulary(digest: str) -> str:
    return f"{FEATURES}/vocabularies/{digest[:32]}.npz"


def network(digest: str) -> str:
    return f"{FEATURES}/networks/{digest[:32]}.tflite"


def run(run_id: str, name: str = "") -> str:
    return f"{RUNS}/{run_id}/{name}" if name else f"{RUNS}/{run_id}"


def manifest(run_id: str) -> str:
    return run(run_id, MANIFEST)


def manifest_list(key: str) -> str:
    """A long list of a manifest, by its key there; within the run."""
    return f"manifest-{key}.parquet"


def report(run_id: str) -> str:
    return run(run_id, "report.html")


def explore(run_id: str) -> str:
    return run(run_id, "explore.html")


def config(run_id: str) -> str:
    return run(run_id, "config.yaml")


def within(run_id: str, name: str) -> str:
    """An object's name within its run, as manifests have it."""
    return name.removeprefix(f"{run(run_id)}/")


def outcome(run_id: str) -> str:
    return run(run_id, "outcome.json")


def log(run_id: str) -> str:
    return run(run_id, "log.gz")


def failures(run_id: str) -> str:
    return run(run_id, "failures.parquet")


def model(run_id: str, name: str = "") -> str:
    return run(run_id, f"model/{name}" if name else "model")


def vectors(run_id: str, number: int, format: str = "parquet") -> str:
    return run(run_id, f"{FOLDER[format]}/part-{number:05d}.{SUFFIX[format]}")


def joined_vectors(run_id: str, format: str) -> str:
    """All vectors as one file."""
    return run(run_id, WHOLE[format])


def sink(run_id: str, name: str, file: str) -> str:
    """A file of a sink that another package brings, by the sink's name; letters, digits, `_`, `-`, and dots within."""
    return run(run_id, f"sinks/{name}/{file}")


def neighbours(run_id: str, metric: str, k: int) -> str:
    """The record of the k nearest of each image of a run."""
    return run(run_id, f"neighbours/{metric}-{k}.json")


def neighbours_of(name: str) -> str | None:
    """The record that an object of a run belongs to, or is, where it is of neighbours."""
    found = NEIGHBOURS.fullmatch(name)
    return f"{found['found']}.json" if found else None


def neighbours_part(run_id: str, metric: str, k: int, number: int) -> str:
    return run(run_id, f"neighbours/{metric}-{k}/part-{number:05d}.parquet")


def work(run_id: str, name: str = "") -> str:
    return run(run_id, f"work/{name}" if name else "work")


def shares(run_id: str, what: str, file: int) -> str:
    """A file of what tasks are to do: TODO, INDEX, FURTHER or AGAIN."""
    return work(run_id, f"{what}-{file:05d}.parquet")


def engine(run_id: str, digest: str) -> str:
    """The file of an engine, for executors that do not have it."""
    return work(run_id, f"{digest}.engine")
