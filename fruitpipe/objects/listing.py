"""List a bucket: page after page, and where it is long, many folders at once."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, wait
from itertools import islice

import pyarrow as pa

from fruitpipe.objects.bucket import Bucket
from fruitpipe.thread_pool import thread_pool

ALONE = 10
"""Pages of 1,000 before folders are listed side by side, which costs a request for each."""
AT_ONCE = 16
"""Folders listed side by side. A page is 0.1 s of waiting, so that the driver's threads do: no task need be sent."""


def list_pages(bucket: Bucket, folder: str) -> Iterator[pa.RecordBatch]:
    """Objects below a folder, as batches of PAGE, in no particular order. Holds as many pages as are under way."""
    pages, last, count = bucket.pages(folder), "", 0
    for page in islice(pages, ALONE):
        last, count = page["key"][-1].as_py(), count + 1
        yield page
    if count < ALONE:
        return
    rest = bucket.split_after(folder, last)
    if rest is None:
        yield from pages
        return
    folders, alone = rest
    yield from alone
    streams = (bucket.pages(name, last) for name in folders)
    with thread_pool(AT_ONCE) as pool:
        waiting = {pool.submit(next, stream, None): stream for stream in islice(streams, AT_ONCE)}
        while waiting:
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                stream: Iterator[pa.RecordBatch] | None = waiting.pop(future)
                if (listed := future.result()) is not None:
                    yield listed
                else:
                    stream = next(streams, None)
                if stream is not None:
                    waiting[pool.submit(next, stream, None)] = stream
