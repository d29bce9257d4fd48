"""Where images come from: folders, globs, buckets and lists; and the bytes of one."""

from fruitpipe.source.inputs import (
    buckets_of,
    check_apart,
    check_inputs,
    is_distinct,
    list_images,
    no_images,
    passed_over,
    require_places,
    searched,
)
from fruitpipe.source.listing import AGAIN, LISTING
from fruitpipe.source.reader import Reader, digest

__all__ = [
    "AGAIN",
    "LISTING",
    "Reader",
    "buckets_of",
    "check_apart",
    "check_inputs",
    "digest",
    "is_distinct",
    "list_images",
    "no_images",
    "passed_over",
    "require_places",
    "searched",
]
