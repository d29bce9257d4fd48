"""One bucket, by key: every request to an object store goes through here."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from fruitpipe.config import Environment, S3Config
from fruitpipe.errors import UserError
from fruitpipe.objects.clients import AT_FIRST, Place, botocore_client, client_of
from fruitpipe.objects.file import BUFFER, ObjectFile
from fruitpipe.objects.refusal import code_of, explain, explained

if TYPE_CHECKING:
    from obstore import GetOptions

PAGE = pa.schema([("key", pa.string()), ("size", pa.int64()), ("etag", pa.string())])
CONTENTS = ("Key", "Size", "ETag")
LARGE = 32 << 20
"""Bytes from which an object is written in parts. A crash in the middle leaves parts behind, that `gc` clears away."""


class Changed(Exception):
    """The object is not the one that was listed."""


class Found(NamedTuple):
    """An object's content and its version."""

    data: memoryview
    etag: str


@dataclass(frozen=True)
class Bucket:
    """A bucket. Cheap to make; pickles; connects in the process that uses it.

    Methods raise FileNotFoundError where there is no such key, UserError for what a person can mend, FruitpipeError
    where the store did not answer for minutes.
    """

    place: Place

    @property
    def url(self) -> str:
        return self.place.url

    def check(self, prefix: str) -> None:
        """Raise UserError at once where the bucket cannot be listed, as after a typo."""
        import obstore

        unnameable = (ValueError, obstore.exceptions.InvalidPathError)  # shows as well that the store answers
        with explained(self.place, "list", prefix), suppress(*unnameable):
            next(iter(obstore.list(client_of(self.place, AT_FIRST), prefix or None, chunk_size=1)), None)

    def pages(self, prefix: str, last: str = "") -> Iterator[pa.RecordBatch]:
        """Objects below a folder that come after a key, as batches of the schema PAGE, ordered by key."""
        import obstore

        with explained(self.place, "list", prefix):
            try:
                found = obstore.list(
                    client_of(self.place), prefix or None, offset=last or None, chunk_size=1000, return_arrow=True
                )
                for page in found:
                    batch = to_page(*(pa.array(page[name]) for name in ("path", "size", "e_tag")))
                    last = batch["key"][-1].as_py()
                    yield batch
            except (ValueError, obstore.exceptions.InvalidPathError):
                if self.place.scheme != "s3":
                    raise UserError(
                        f"{self.url} has a key with control characters after {last!r}: rename it."
                    ) from None
                yield from self._pages_of_any(prefix, last)

    def _pages_of_any(self, prefix: str, last: str) -> Iterator[pa.RecordBatch]:
        """As `pages`, where there are keys that obstore refuses: control characters, `//`."""
        for answer in self._list(prefix, last):
            if found := answer.get("Contents"):
                yield to_page(*(pa.array([each[name] for each in found]) for name in CONTENTS))

    def _list(self, prefix: str, last: str, **options: str) -> Iterator[dict[str, Any]]:
        """Answers of S3 itself."""
        if self.place.s3.requester_pays:
            options["RequestPayer"] = "requester"
        pages = botocore_client(self.place).get_paginator("list_objects_v2")
        below = f"{prefix}/" if prefix else ""
        yield from pages.paginate(Bucket=self.place.name, Prefix=below, StartAfter=last, **options)

    def split_after(self, prefix: str, last: str) -> tuple[list[str], list[pa.RecordBatch]] | None:
        """What comes after a key: folders right below the prefix, and objects that are in none.

        None where there are no such folders, or the store cannot tell.
        """
        if self.place.scheme != "s3":
            return None
        folders: list[str] = []
        pages = []
        with explained(self.place, "list", prefix):
            for answer in self._list(prefix, last, Delimiter="/"):
                folders += [each["Prefix"].rstrip("/") for each in answer.get("CommonPrefixes", [])]
                if not folders:
                    return None
                if found := answer.get("Contents"):
                    pages.append(to_page(*(pa.array([each[name] for each in found]) for name in CONTENTS)))
        return folders, pages

    def folders(self, prefix: str) -> list[str]:
        """Names of the folders right below one, sorted."""
        import obstore

        with explained(self.place, "list", prefix):
            found = obstore.list_with_delimiter(client_of(self.place), prefix or None)["common_prefixes"]
        return sorted(name.rstrip("/").rpartition("/")[2] for name in found)

    def get(self, key: str, etag: str | None = None, max_bytes: int | None = None) -> Found:
        """An object. Raises Changed where its etag is not `etag`, and OverflowError beyond `max_bytes`, unread."""
        import obstore

        with explained(self.place, "read", key):
            try:
                answer = obstore.get(client_of(self.place), key, options=self._if_match(etag))
            except obstore.exceptions.PreconditionError:
                raise Changed from None
            except ValueError:
                return self._get_any(key, etag)
            if max_bytes is not None and answer.meta["size"] > max_bytes:
                raise OverflowError
            return Found(memoryview(answer.bytes()), answer.meta["e_tag"] or "")

    def _if_match(self, etag: str | None) -> GetOptions:
        return {"if_match": f'"{etag}"' if self.place.scheme == "s3" else etag} if etag else {}

    def _get_any(self, key: str, etag: str | None) -> Found:
        """As `get`, of a key that obstore refuses."""
        if self.place.scheme != "s3":
            raise FileNotFoundError(key)
        client = botocore_client(self.place)
        options = {"IfMatch": f'"{etag}"'} if etag else {}
        try:
            answer = client.get_object(Bucket=self.place.name, Key=key, **options)
        except client.exceptions.NoSuchKey:
            raise FileNotFoundError(key) from None
        except client.exceptions.ClientError as error:
            if error.response["Error"]["Code"] in {"PreconditionFailed", "412"}:
                raise Changed from None
            raise
        return Found(memoryview(answer["Body"].read()), answer["ETag"])

    def open(self, key: str) -> io.BufferedReader:
        """A seekable file for reading."""
        return io.BufferedReader(ObjectFile(self.place, key), BUFFER)

    def put(self, key: str, data: bytes | memoryview | Path) -> None:
        """Write a whole object; readers see the old one or the new one."""
        import obstore

        # obstore takes signed bytes, as Arrow's are, for a sequence of numbers.
        body = data if isinstance(data, Path) else memoryview(data).cast("B")
        size = body.stat().st_size if isinstance(body, Path) else len(body)
        with explained(self.place, "write", key):
            obstore.put(client_of(self.place), key, body, tags=self.place.s3.tags or None, use_multipart=size >= LARGE)

    def put_if(self, key: str, data: bytes, etag: str | None) -> bool:
        """Write an object where the one that is there has this etag (None: where there is none); say whether it did."""
        import obstore

        refused = (obstore.exceptions.AlreadyExistsError, obstore.exceptions.PreconditionError)
        with explained(self.place, "write", key):
            try:
                obstore.put(
                    client_of(self.place),
                    key,
                    data,
                    mode={"e_tag": etag} if etag else "create",
                    tags=self.place.s3.tags or None,
                )
            except refused:
                # A repeated request is refused if the first one was carried out and its answer lost.
                try:
                    return bytes(self.get(key).data) == data
                except FileNotFoundError:
                    return False
            return True

    def delete(self, key: str) -> None:
        """Deleting what is not there is no error."""
        import obstore

        with explained(self.place, "delete", key):
            try:
                obstore.delete(client_of(self.place), key)
            except FileNotFoundError:
                return

    def abort_uploads(self, prefix: str) -> int:
        """Clear away what uploads in parts left behind that never ended; say how many there were. S3 only."""
        if self.place.scheme != "s3":
            return 0
        client, count = botocore_client(self.place), 0
        with explained(self.place, "delete", prefix):
            for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=self.place.name, Prefix=prefix):
                for upload in page.get("Uploads", []):
                    client.abort_multipart_upload(
                        Bucket=self.place.name, Key=upload["Key"], UploadId=upload["UploadId"]
                    )
                    count += 1
        return count


def to_page(*columns: pa.Array) -> pa.RecordBatch:
    keys, sizes, etags = (column.cast(field.type) for column, field in zip(columns, PAGE, strict=True))
    # S3 puts its etags in quotes when it lists, and not in its inventories.
    return pa.RecordBatch.from_arrays([keys, sizes, pc.utf8_trim(pc.fill_null(etags, ""), '"')], schema=PAGE)


def split(url: str) -> tuple[str, str, str]:
    """Scheme, bucket and key of a URL: s3://bucket/a/b as ("s3", "bucket", "a/b"). The key has no slash at its ends."""
    scheme, _, rest = url.partition("://")
    name, _, key = rest.partition("/")
    return scheme, name, key.strip("/")


def open_bucket(url: str, s3: S3Config) -> Bucket:
    """The bucket of a URL.

    Raises UserError where there are no credentials, no such bucket, or where it lives outside `s3.region`.
    """
    scheme, name, _ = split(url)
    return _open(os.getpid(), f"{scheme}://{name}", s3.model_dump_json())


@lru_cache
def _open(pid: int, url: str, s3_json: str) -> Bucket:
    scheme, name, _ = split(url)
    s3 = S3Config.model_validate_json(s3_json)
    if scheme != "s3":
        return Bucket(Place(scheme, name, None, None, s3))
    region = s3.region or Environment.read().aws_region
    resolved = botocore_client(Place("s3", name, s3.endpoint, region, s3)).meta
    aws = resolved.endpoint_url.endswith((".amazonaws.com", ".amazonaws.com.cn"))
    place = Place("s3", name, None if aws else resolved.endpoint_url, region_or_default(resolved), s3)
    if (place.endpoint or "").startswith("http://") and not s3.allow_http:
        raise UserError(f"the endpoint {place.endpoint} has no TLS: use https://, or say s3.allow_http: true.")
    if (aws or s3.region) and (actual := region_of(place)) not in {None, place.region}:
        if s3.region:
            raise UserError(
                f"{place.url} is in {actual}, but s3.region is {s3.region}: nothing was read or written. Use a bucket "
                f"in {s3.region}, or change s3.region if the data may leave it."
            )
        place = Place("s3", name, place.endpoint, actual, s3)
    return Bucket(place)


def region_or_default(resolved: Any) -> str:
    """Of the settings, the environment or the profile; S3's own default where none of them has one."""
    return "us-east-1" if resolved.region_name in {None, "aws-global"} else str(resolved.region_name)


def region_of(place: Place) -> str | None:
    """Region that a bucket lives in; None where the store does not tell."""
    client = botocore_client(place, AT_FIRST)
    try:
        answer = client.head_bucket(Bucket=place.name)
    except client.exceptions.ClientError as error:
        answer = error.response
        if code_of(error) in {"404", "NoSuchBucket"}:
            missing = f"An error occurred (NoSuchBucket): {place.name}"
            raise explain(RuntimeError(missing), place, "list") from None
    except Exception as error:
        raise explain(error, place, "list") from error
    region = answer["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region")
    return str(region) if region else None
