"""Object stores: buckets of S3, Google Cloud Storage and Azure, and why one refuses."""

from fruitpipe.objects.bucket import Bucket, Changed, Found
from fruitpipe.objects.error_messages import Forbidden, NoBucket
from fruitpipe.objects.keys import below
from fruitpipe.objects.listing import list_pages
from fruitpipe.objects.opening import bucket_of, open_bucket, open_object, prefix_of, split

__all__ = [
    "Bucket",
    "Changed",
    "Forbidden",
    "Found",
    "NoBucket",
    "below",
    "bucket_of",
    "list_pages",
    "open_bucket",
    "open_object",
    "prefix_of",
    "split",
]
