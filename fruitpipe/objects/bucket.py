"""One bucket, by key: every request to an object store goes through here."""

from __future__ import annotations

import io
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from fruitpipe.errors import FruitpipeError, UserError
from fruitpipe.objects.clients import AT_FIRST, LATER, botocore_client, client_of
from fruitpipe.objects.error_messages import Forbidden, code_of, in_our_words, one_line
from fruitpipe.objects.file import BUFFER, ObjectFile
from fruitpipe.objects.keys import UNUSUAL, below, exact
from fruitpipe.objects.place import Place
from fruitpipe.objects.retry import Retry, retried

if TYPE_CHECKING:
    from obstore import GetOptions, PutMode, UpdateVersion
    from obstore.store import ObjectStore

PAGE = pa.schema([("key", pa.string()), ("size", pa.int64()), ("etag", pa.string())])
PAGE_KEYS = 1000
"""Keys of a page, but for the last."""
CONTENTS = ("Key", "Size", "ETag")
MOST_DELETED = 1000
"""Keys that S3 deletes with one request."""
ALONE = 16
"""Keys that are deleted side by side, each with a request, where one with many fails."""
LARGE = 32 << 20
"""Bytes from which an object is written in parts. A crash in the middle leaves parts behind, that `gc` clears away."""


class Changed(Exception):
    """The object is not the one that was listed."""


class Found(NamedTuple):
    """An object's content and its version."""

    data: memoryview
    version: UpdateVersion
    """What the store compares: S3 and Azure etags, Google Cloud Storage a number."""


@dataclass(frozen=True)
class Bucket:
    """A bucket. Cheap to make; pickles; connects in the process that uses it.

    Methods raise FileNotFoundError where there is no such key, UserError for what a person can fix, FruitpipeError
    where the store did not answer for minutes.
    """

    place: Place

    @property
    def url(self) -> str:
        return self.place.url

    def client(self, retries: int = LATER) -> ObjectStore:
        """This process' connection.

        Raises UserError in the child of a process that has used one: obstore's threads do not come along, and it would
        wait for them forever.
        """
        if first_user() != os.getpid():
            raise UserError(
                "this process was forked from one that had used an object store: start it by `spawn` "
                "(multiprocessing.get_context), or fork before that."
            )
        return client_of(self.place, retries)

    def has_any(self, prefix: str) -> bool:
        """Whether there are objects below a folder.

        Raises UserError at once where that cannot be told, as after a typo.
        """
        import obstore

        with in_our_words(self.place, "list", prefix):
            try:
                client, folder = self.client(AT_FIRST), exact(prefix) or None
                found = retried(lambda: next(iter(obstore.list(client, folder, chunk_size=1)), None)) is not None
            except (ValueError, obstore.exceptions.InvalidPathError):
                found = self.place.scheme != "s3"
            # S3 may say with status 200 that it failed, which obstore takes for a page without keys.
            if found or self.place.scheme != "s3":
                return found
            return "Contents" in next(self._list(prefix, "", AT_FIRST, MaxKeys=1))

    def pages(self, prefix: str, last: str = "") -> Iterator[pa.RecordBatch]:
        """Objects below a folder that come after a key, as batches of the schema PAGE, ordered by key."""
        import obstore

        retry, count = Retry(), 0
        with in_our_words(self.place, "list", prefix):
            while True:
                try:
                    for batch in self._pages(prefix, last):
                        retry, last, count = Retry(), batch["key"][-1].as_py(), count + len(batch)
                        yield batch
                    if self.place.scheme == "s3" and count % PAGE_KEYS == 0:  # as in `has_any`
                        yield from self._pages_of_any(prefix, last)
                except (ValueError, obstore.exceptions.InvalidPathError) as error:
                    if self.place.scheme != "s3":
                        why = f"cannot list {self.url}/{prefix}: {one_line(str(error))}"
                        raise UserError(f"{why}. Rename it: keys with {UNUSUAL} can be read in S3 alone.") from None
                    yield from self._pages_of_any(prefix, last)
                except obstore.exceptions.GenericError as error:
                    retry.wait(error)
                    continue
                return

    def _pages(self, prefix: str, last: str) -> Iterator[pa.RecordBatch]:
        """As `pages`, until a connection breaks. Raises ValueError or InvalidPathError where obstore refuses a key."""
        import obstore

        client, folder, after = self.client(), exact(prefix) or None, exact(last) or None
        if not prefix and self._begin_with_a_slash(last):
            raise ValueError("Some keys begin with a slash")
        for page in obstore.list(client, folder, offset=after, chunk_size=PAGE_KEYS, return_arrow=True):
            yield to_page(*(pa.array(page[name]) for name in ("path", "size", "e_tag")))

    def _pages_of_any(self, prefix: str, last: str) -> Iterator[pa.RecordBatch]:
        """As `pages`, where there are keys that obstore refuses."""
        for answer in self._list(prefix, last):
            if found := answer.get("Contents"):
                yield to_page(*(pa.array([each[name] for each in found]) for name in CONTENTS))

    def _begin_with_a_slash(self, last: str) -> bool:
        """Whether keys after one do, which obstore would list without it.

        False where the store cannot tell, or there is a right to list other prefixes only.
        """
        if self.place.scheme != "s3" or last >= "0":  # which comes after the slash
            return False
        try:
            found = next(self._list("/", last, MaxKeys=1)).get("Contents", [])
        except Exception as error:
            if code_of(error) != "AccessDenied":
                raise
            return False
        return any(each["Key"].startswith("/") for each in found)  # SeaweedFS takes the slash off itself

    def _list(self, prefix: str, last: str, retries: int = LATER, **options: Any) -> Iterator[dict[str, Any]]:
        """Answers of S3 itself."""
        if self.place.s3.requester_pays:
            options["RequestPayer"] = "requester"
        pages = botocore_client(self.place, retries).get_paginator("list_objects_v2")
        yield from pages.paginate(Bucket=self.place.name, Prefix=below(prefix), StartAfter=last, **options)

    def split_after(self, prefix: str, last: str) -> tuple[list[str], list[pa.RecordBatch]] | None:
        """What comes after a key: folders right below the prefix, and objects that are in none.

        None where there are no such folders, or the store cannot tell.
        """
        if self.place.scheme != "s3":
            return None
        start = below(prefix)
        # The key's own folder may have more: Ceph does not tell, and SeaweedFS tells of folders within it instead.
        inside, pages = [last], []
        with in_our_words(self.place, "list", prefix):
            for answer in self._list(prefix, last, Delimiter="/"):
                inside += [each["Prefix"] for each in answer.get("CommonPrefixes", [])]
                folders = dict.fromkeys(key[: key.find("/", len(start))] for key in inside if "/" in key[len(start) :])
                # A folder without a name, as in a//b, cannot be listed alone.
                if not folders or start in folders:
                    return None
                if found := answer.get("Contents"):
                    pages.append(to_page(*(pa.array([each[name] for each in found]) for name in CONTENTS)))
        return list(folders), pages

    def folders(self, prefix: str) -> list[str]:
        """Names of the folders right below one, sorted."""
        import obstore

        with in_our_words(self.place, "list", prefix):
            found = retried(lambda: obstore.list_with_delimiter(self.client(), prefix or None))
        return sorted(name.rstrip("/").rpartition("/")[2] for name in found["common_prefixes"])

    def get(self, key: str, etag: str | None = None, admit: Callable[[int], None] | None = None) -> Found:
        """An object. Raises Changed where its etag is not `etag`.

        admit: told its size, each time before it is read; what it raises is raised.
        """
        import obstore

        with in_our_words(self.place, "read", key):
            try:
                return retried(lambda: self._get(key, etag, admit))
            except obstore.exceptions.PreconditionError:
                raise Changed from None
            except ValueError:
                return self._get_any(key, etag, admit)

    def _get(self, key: str, etag: str | None, admit: Callable[[int], None] | None) -> Found:
        import obstore

        condition: GetOptions = {"if_match": f'"{etag}"'} if etag else {}
        answer = obstore.get(self.client(), exact(key), options=condition)
        meta = answer.meta  # made anew each time
        if etag and (meta["e_tag"] or "").strip('"') != etag:  # some accept conditions and pass over them
            raise Changed
        if admit:
            admit(meta["size"])
        version: UpdateVersion = {"e_tag": meta["e_tag"] or ""}
        if number := meta["version"]:
            version["version"] = number
        return Found(memoryview(answer.bytes()), version)

    def _get_any(self, key: str, etag: str | None, admit: Callable[[int], None] | None) -> Found:
        """As `get`, of a key that obstore refuses."""
        if self.place.scheme != "s3":
            raise FruitpipeError(f"cannot ask for a key with {UNUSUAL}, which only S3 takes: rename it.")
        client = botocore_client(self.place)
        options = {"IfMatch": f'"{etag}"'} if etag else {}
        if self.place.s3.requester_pays:
            options["RequestPayer"] = "requester"
        try:
            answer = client.get_object(Bucket=self.place.name, Key=key, **options)
        except client.exceptions.NoSuchKey:
            raise FileNotFoundError(key) from None
        except client.exceptions.ClientError as error:
            if error.response["Error"]["Code"] in {"PreconditionFailed", "412"}:
                raise Changed from None
            raise
        with closing(answer["Body"]) as body:
            if admit:
                admit(answer["ContentLength"])
            return Found(memoryview(body.read()), {"e_tag": answer["ETag"]})

    def open(self, key: str) -> io.BufferedIOBase:
        """A seekable file for reading; held in memory where obstore refuses its key."""
        try:
            return io.BufferedReader(ObjectFile(self.place, key, self.client), BUFFER)
        except ValueError:
            return io.BytesIO(self.get(key).data)

    def put(self, key: str, data: bytes | memoryview | Path) -> None:
        """Write a whole object; readers see the old one or the new one."""
        import obstore

        # obstore takes signed bytes, as Arrow's are, for a sequence of numbers.
        body = data if isinstance(data, Path) else memoryview(data).cast("B")
        size = body.stat().st_size if isinstance(body, Path) else len(body)
        with in_our_words(self.place, "write", key):
            obstore.put(self.client(), key, body, tags=self.place.s3.tags or None, use_multipart=size >= LARGE)

    def copy(self, key: str, to: str) -> None:
        """Copy an object within the store, which moves no bytes to us where we have the right to and the store can."""
        import obstore

        client = self.client()
        try:
            with in_our_words(self.place, "write", to):
                size = obstore.head(client, key)["size"]
                retried(lambda: obstore.copy(client, key, to))
                if obstore.head(client, to)["size"] == size:
                    return  # a server that does not know of copies makes an empty object, and says that all is well
        except Forbidden:  # with tags, S3 wants the right to read these, too
            pass
        self.put(to, self.get(key).data)

    def put_if(self, key: str, data: bytes, found: Found | None) -> bool:
        """Write an object where `found` is still there (None: where there is none); say whether it did."""
        import obstore

        refused = (obstore.exceptions.AlreadyExistsError, obstore.exceptions.PreconditionError)
        mode: PutMode = found.version if found else "create"
        tags, mine = self.place.s3.tags or None, {"writer": uuid.uuid4().hex}
        with in_our_words(self.place, "write", key):
            try:
                retried(lambda: obstore.put(self.client(), key, data, attributes=mine, mode=mode, tags=tags))
            except refused:
                # A repeated request is refused if the first one was carried out and its answer lost.
                try:
                    answer = retried(lambda: obstore.get(self.client(), key))
                except FileNotFoundError:
                    return False
                return answer.attributes.get("writer") == mine["writer"]
            return True

    def delete(self, key: str) -> None:
        """Deleting what is not there is no error."""
        import obstore

        with in_our_words(self.place, "delete", key), suppress(FileNotFoundError):
            retried(lambda: obstore.delete(self.client(), key))

    def delete_all(self, keys: Iterable[str], before: Callable[[], None]) -> None:
        """As `delete`, of many keys: MOST_DELETED of them with one request where S3 takes all, else ALONE side by side.

        before: called before each of these; it may raise.
        """
        import obstore

        remaining = iter(keys)
        while some := list(islice(remaining, MOST_DELETED)):
            before()
            try:
                retried(lambda keys=some: obstore.delete(self.client(), keys))  # type: ignore[misc]
            except Exception:  # noqa: BLE001 - one of them may stay, or is gone where that is an error: each alone says so
                with ThreadPoolExecutor(ALONE) as pool:
                    for first in range(0, len(some), ALONE):
                        before()
                        list(pool.map(self.delete, some[first : first + ALONE]))

    def uploads(self, prefix: str) -> Iterator[tuple[str, str]]:
        """Keys and ids of the uploads in parts below a folder that have not ended, whoever began them. S3 only."""
        if self.place.scheme != "s3":
            return
        with in_our_words(self.place, "list uploads to", prefix):
            pages = botocore_client(self.place).get_paginator("list_multipart_uploads")
            for page in pages.paginate(Bucket=self.place.name, Prefix=below(prefix)):
                yield from ((each["Key"], each["UploadId"]) for each in page.get("Uploads", []))

    def abort_upload(self, key: str, upload: str) -> None:
        """Clear away the parts of an upload that has not ended. S3 only; one that is gone is no error."""
        client = botocore_client(self.place)
        with in_our_words(self.place, "delete", key), suppress(client.exceptions.NoSuchUpload):
            client.abort_multipart_upload(Bucket=self.place.name, Key=key, UploadId=upload)


@lru_cache
def first_user() -> int:
    """The process that obstore's threads are in; forked ones inherit the answer."""
    return os.getpid()


def to_page(*columns: pa.Array) -> pa.RecordBatch:
    keys, sizes, etags = (column.cast(field.type) for column, field in zip(columns, PAGE, strict=True))
    # S3 puts its etags in quotes when it lists, and not in its inventories.
    return pa.RecordBatch.from_arrays([keys, sizes, pc.utf8_trim(pc.fill_null(etags, ""), '"')], schema=PAGE)
