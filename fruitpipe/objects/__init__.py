"""Object stores: buckets of S3, Google Cloud Storage and Azure, and why one refuses."""

from fruitpipe.objects.bucket import Bucket, Changed
from fruitpipe.objects.error_messages import Forbidden, NoBucket
from fruitpipe.objects.listing import list_pages
from fruitpipe.objects.opening import open_bucket, split

__all__ = ["Bucket", "Changed", "Forbidden", "NoBucket", "list_pages", "open_bucket", "split"]
