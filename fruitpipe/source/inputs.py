"""List the images of a run's inputs, whatever each of them is."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Literal

import pyarrow as pa

from fruitpipe.config import ImageConfig, S3Config, absolute_path, is_remote, local_path
from fruitpipe.errors import UserError
from fruitpipe.objects import Bucket, Forbidden, bucket_of, open_bucket, prefix_of, split
from fruitpipe.source import buckets, files, image_lists
from fruitpipe.source.fetching import Image, fetch
from fruitpipe.source.listing import AGAIN, BATCH, LINKED, LISTING, LISTS, NAMELESS, WILD, split_glob
from fruitpipe.source.reader import Reader, digest
from fruitpipe.storage import layout
from fruitpipe.units import in_kinds
from fruitpipe.vision.bad_image import BadImage
from fruitpipe.vision.formats import EXTENSIONS


def list_images(
    inputs: str | Sequence[str],
    labels: Literal["parent", "none"] = "parent",
    verify_content: bool = False,
    max_bytes: int = ImageConfig().max_bytes,
    s3: S3Config | None = None,
    batch: int = BATCH,
    others: Counter[str] | None = None,
    allow: Sequence[str] = (),
) -> Iterator[pa.RecordBatch]:
    """Every image of the inputs, as batches of the schema LISTING, in no particular order.

    Streams: at no time is more held than one batch and, of a disk, what `list_folder` holds. With `verify_content`,
    images of up to `max_bytes` are read for their digest. An image that two inputs have comes twice.

    others: files that are no images by name are counted there, by extension.
    allow: places whose images lists may name besides their own, as `lists.allow` of a config has it.

    Raises UserError where an input is missing, cannot be listed or read, is nothing that holds images, or a list that
    names what it may not.
    """
    s3 = s3 or S3Config()
    for name in [inputs] if isinstance(inputs, str) else inputs:
        found = list_one(name, labels == "parent", s3, batch, Counter() if others is None else others, allow)
        yield from with_content(found, Reader(s3, max_bytes)) if verify_content else found


def list_one(
    name: str, by_parent: bool, s3: S3Config, batch: int, others: Counter[str], allow: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    match kind_of(name):
        case "list":
            return image_lists.list_named(name, by_parent, s3, others, allow)
        case "bucket":
            return buckets.list_bucket(name, by_parent, s3, others)
        case "folder":
            return files.list_folder(local_path(name), by_parent, batch, others)


def kind_of(name: str) -> Literal["list", "bucket", "folder"]:
    if name.lower().endswith(LISTS) and not os.path.isdir(local_path(name)):  # noqa: PTH112 - as in files
        return "list"
    return "bucket" if is_remote(name) else "folder"


def is_distinct(inputs: Sequence[str]) -> bool:
    """Whether no image can come twice: a folder or bucket has each once."""
    return len(inputs) == 1 and kind_of(inputs[0]) != "list"


def check_inputs(inputs: Sequence[str], s3: S3Config) -> None:
    """Raise UserError at once where an input cannot be listed, or is a prefix with nothing below, as after a typo."""
    for name in inputs:
        match kind_of(name):
            case "list":
                image_lists.open_list(name, s3).close()
            case "bucket":
                try:
                    found = open_bucket(name, s3).has_any(buckets.listed_prefix(name))
                except Forbidden as error:
                    advice = "Images that a list of images names need no listing."
                    raise UserError(f"{error} {advice}") from error
                if not found:
                    raise no_images([name])
            case "folder":
                files.root_of(local_path(name))


def check_apart(inputs: Sequence[str], output: str) -> None:
    """Raise UserError where images and results share a folder: files of either could be taken for the other's."""
    results = place_of(output)
    for name in inputs:
        if kind_of(name) == "list":
            continue
        images = searched(name)
        if images == results:
            raise UserError(f"{name} is input and output: choose another output, such as {output.rstrip('/')}/results.")
        for own in layout.FOLDERS:
            if f"{images}/".startswith(f"{results.rstrip('/')}/{own}/"):
                raise UserError(
                    f"{name} is in {own}/ of the output, where results lie: move the images, or choose another output."
                )


def searched(name: str) -> str:
    """The folder or prefix that an input lists, as `place_of` spells it."""
    if is_remote(name):
        return f"{bucket_of(name)}/{buckets.listed_prefix(name)}"
    path = str(absolute_path(name))
    return place_of(path if os.path.exists(path) else split_glob(path)[0])  # noqa: PTH110 - as in files


def place_of(name: str) -> str:
    """A folder or prefix in one spelling."""
    if is_remote(name):
        return f"{bucket_of(name)}/{prefix_of(name)}"
    return os.path.realpath(absolute_path(name))


def buckets_of(inputs: Sequence[str], s3: S3Config) -> tuple[Bucket, ...]:
    """The buckets among the inputs; those that lists of images name are not known before."""
    found = [open_bucket(name, s3) for name in inputs if kind_of(name) == "bucket"]
    return tuple({bucket.url: bucket for bucket in found}.values())


def require_places(statuses: Collection[str], path: str, reader: Reader) -> None:
    """Raise UserError where no image was read, and that of a path for the sake of its bucket: it will be that of all.

    statuses: those of all images.
    """
    if set(statuses) <= {"missing", "forbidden"}:
        reader.require_place(path)


def passed_over(others: Mapping[str, int]) -> str:
    """A note of the files that are no images, of links to folders that are listed by another path, and of rows that
    name no image, or one again."""
    links = ", as were links to folders that are listed anyway" if LINKED in others else ""
    rows = ", as were rows that name no image or one that is named already" if {AGAIN, NAMELESS} & set(others) else ""
    return f"files that are hidden or no images by name were passed over{links}{rows}: {in_kinds(others)}"


def no_images(inputs: Sequence[str], others: Mapping[str, int] | None = None) -> UserError:
    named = ", ".join(inputs)
    if all(kind_of(name) == "list" for name in inputs):
        return UserError(f"no images in {named}: no row there names one.")
    kinds = ", ".join(sorted(extension[1:] for extension in EXTENSIONS))
    below = "" if any(map(WILD.search, inputs)) else " and in all folders below"
    found = f", and found {in_kinds(others)}" if others else ""
    doubled = any(is_remote(name) and "//" in f"/{split(name)[2]}" for name in inputs)
    slashes = " In a key, // is another than /." if doubled else ""
    folders = "".join(
        f" A glob means files, not folders: {glob}/* takes those in {glob}, and {glob}/** those in all folders below."
        for glob in [name.rstrip("/") for name in inputs if may_mean_folders(name)][:1]
    )
    return UserError(f"no images in {named}: looked for {kinds} there{below}{found}.{slashes}{folders}")


def may_mean_folders(name: str) -> bool:
    """Whether an input is a glob whose last part is like no image's name."""
    last = name.rstrip("/").rpartition("/")[2]
    is_glob = kind_of(name) != "list" and WILD.search(name) and not os.path.exists(local_path(name))  # noqa: PTH110
    return bool(is_glob) and last != "**" and not last.lower().endswith(tuple(EXTENSIONS))


def with_content(batches: Iterator[pa.RecordBatch], reader: Reader) -> Iterator[pa.RecordBatch]:
    """The batches with digests of the images' bytes; null where they cannot be read, which the run itself will tell."""

    position = LISTING.get_field_index("content")
    for batch in batches:
        images = [Image(path) for path in batch["path"].to_pylist()]
        contents = [None if isinstance(data, BadImage) else digest(data) for data in fetch(images, reader)]
        yield batch.set_column(position, batch.schema.field(position), pa.array(contents, pa.string()))
