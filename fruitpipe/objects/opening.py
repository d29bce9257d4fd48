"""From a URL to its bucket: where it is, and whether we may use it."""

from __future__ import annotations

import re
import threading
from functools import lru_cache
from typing import Any, BinaryIO, cast

from fruitpipe.config import Environment, S3Config, location
from fruitpipe.errors import UserError
from fruitpipe.objects.bucket import Bucket
from fruitpipe.objects.clients import AT_FIRST, LATER, Chain, Credentials, botocore_client, chain
from fruitpipe.objects.error_messages import in_our_words, our_error, setting_of
from fruitpipe.objects.place import Place

opening = threading.Lock()
"""A worker's 32 threads ask for their bucket at one time: the first one opens it, the others get what it got."""


def split(url: str) -> tuple[str, str, str]:
    """Scheme, bucket and key of a URL: s3://bucket/a/b as ("s3", "bucket", "a/b"). Keys are no paths: slashes count."""
    scheme, _, rest = url.partition("://")
    name, _, key = rest.partition("/")
    return scheme, name, key


def bucket_of(url: str) -> str:
    """URL of the bucket that an object is in."""
    return "{}://{}".format(*split(url))


def prefix_of(url: str) -> str:
    """The folder that a URL means, as a key: s3://bucket/a and s3://bucket/a/ as "a", s3://bucket// as "/"."""
    key = split(url)[2]
    return key if key == "/" else key.removesuffix("/")


def open_bucket(url: str, s3: S3Config) -> Bucket:
    """The bucket of a URL.

    Raises UserError where it is no URL of one, where nothing answers, where there are no credentials, or where it lives
    outside `s3.region`.
    """
    try:
        scheme, name, _ = split(location(url))
    except ValueError as error:  # of a model, a manifest or an output that no config has checked
        raise UserError(f"cannot use a URL: {str(error).rstrip('.')}.") from error
    with opening:
        return _open(chain(), f"{scheme}://{name}", s3)


def open_object(url: str, s3: S3Config) -> BinaryIO:
    """The object of a URL, to be read. Raises FileNotFoundError where it is missing, and what `open_bucket` does."""
    return cast(BinaryIO, open_bucket(url, s3).open(split(url)[2]))


@lru_cache
def _open(chain: Chain, url: str, s3: S3Config) -> Bucket:
    scheme, name, _ = split(url)
    if scheme != "s3":
        return Bucket(Place(scheme, name, None, None, s3))
    environment = Environment.read()
    asked = Place("s3", name, s3.endpoint, s3.region or environment.aws_region, s3)
    Credentials()  # at first, since whoever else finds none has no words for it
    try:
        with in_our_words(asked, "list"):
            resolved = botocore_client(asked).meta
    except ValueError as error:
        raise our_error(error, asked, "list") from error
    endpoint = without_user(resolved.endpoint_url)
    aws = endpoint.endswith((".amazonaws.com", ".amazonaws.com.cn"))
    place = Place("s3", name, None if aws else endpoint, region_or_default(resolved), s3)
    if (place.endpoint or "").startswith("http://") and not s3.allow_http:
        raise UserError(f"the endpoint {place.endpoint} has no TLS: use https://, or set s3.allow_http: true.")
    # Before there are workers, the driver has had an answer.
    actual = region_of(place, LATER if environment.worker else AT_FIRST)
    if (aws or s3.region) and actual not in {None, place.region}:
        if s3.region:
            raise UserError(
                f"{place.url} is in {actual}, but s3.region is {s3.region}: nothing was read or written. Use a bucket "
                f"in {s3.region}, or change s3.region if the data may leave it."
            )
        place = Place("s3", name, place.endpoint, actual, s3)
    return Bucket(place)


def without_user(url: str) -> str:
    """A URL without the user and password in it, which S3 has no use for and messages would repeat."""
    return re.sub(r"^(\w+://)[^/]*@", r"\1", url)


def region_or_default(resolved: Any) -> str:
    """Of the settings, the environment or the profile; S3's own default where none of them has one."""
    return "us-east-1" if resolved.region_name in {None, "aws-global"} else str(resolved.region_name)


def region_of(place: Place, retries: int) -> str | None:
    """Region that a bucket lives in; None where the store does not tell. Raises UserError where nothing answers."""
    client = botocore_client(place, retries)
    with in_our_words(place, "list"):
        headers = head(client, place.name)
    if "text/html" in headers.get("content-type", ""):
        raise UserError(f"{place.server} is a web site, not an object store: check the port of {setting_of(place)}.")
    region = headers.get("x-amz-bucket-region")
    return str(region) if region else None


def head(client: Any, name: str) -> dict[str, str]:
    """Headers of the answer to a question about a bucket. Refusals have them too; the next request will say why."""
    try:
        answer = client.head_bucket(Bucket=name)
    except RecursionError:  # botocore's answer to a redirect that does not say where to
        return {}
    except client.exceptions.ClientError as error:
        answer = error.response
        if answer["ResponseMetadata"]["HTTPStatusCode"] >= 500:
            raise
    headers: dict[str, str] = answer["ResponseMetadata"]["HTTPHeaders"]
    return headers
