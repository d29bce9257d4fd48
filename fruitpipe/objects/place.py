"""Where a bucket is, and how to reach it."""

from __future__ import annotations

from dataclasses import dataclass

from fruitpipe.config import S3Config


@dataclass(frozen=True)
class Place:
    """A bucket and how to reach it; holds no credentials and no connection, so it may be sent to any process."""

    scheme: str
    name: str
    endpoint: str | None
    region: str | None
    s3: S3Config

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.name}"

    @property
    def server(self) -> str:
        """For people."""
        return self.endpoint or {"s3": "AWS", "gs": "Google Cloud Storage", "az": "Azure"}[self.scheme]
