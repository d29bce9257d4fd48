"""Where images come from: folders, globs, buckets and manifests; and the bytes of one."""

from fruitpipe.source.inputs import buckets_of, check, check_apart, is_distinct, list_images, no_images
from fruitpipe.source.listing import LISTING
from fruitpipe.source.reader import Reader, digest

__all__ = [
    "LISTING",
    "Reader",
    "buckets_of",
    "check",
    "check_apart",
    "digest",
    "is_distinct",
    "list_images",
    "no_images",
]
