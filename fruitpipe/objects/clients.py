"""Clients of object stores: where a bucket is, with whose credentials, with how much retry.

Credentials come from botocore's chain (environment, profile, web identity, Pod Identity, instance role), for every
request alike. botocore renews them by itself; clients ask it again every few seconds.
"""

from __future__ import annotations

import os
import re
import ssl
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from fruitpipe.config import Environment, S3Config
from fruitpipe.errors import UserError
from fruitpipe.objects.error_messages import no_credentials
from fruitpipe.objects.place import Place
from fruitpipe.redaction import Version, remember, versions

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig, S3Credential
    from obstore.store import S3Config as ClientSettings

ASK_AGAIN = timedelta(minutes=5, seconds=5)
"""Life told of credentials. Clients renew what has under five minutes left, so that they ask botocore every 5 s."""
AT_FIRST = 2
"""Retries of the first request, where a typo is likelier than a fault."""
LATER = 30
"""Retries once a store has answered: two to three minutes, as a restarted server needs."""
ANSWERS = {AT_FIRST: 5, LATER: 60}
"""Seconds in which some of an answer must come, by retries; a request that is sent slowly takes of them, too."""
WHOLE = timedelta(minutes=2)
"""In which a request and its answer must be over."""
ATTEMPTS, READ = 13, 15
"""botocore's, once a store has answered, and the seconds of each: four to five minutes where it hangs."""
SENDABLE = re.compile("[!-~]*")
"""What a header may hold, and therefore a key."""
OF_STORES = ("AWS_", "AZURE_", "GOOGLE_")
"""How the names of variables begin that chains of credentials look at."""
making = threading.Lock()
"""A client takes a tenth of a second and asks for credentials: threads that want the same at one time get one."""


class Chain(NamedTuple):
    """What a client is made of besides its place. Where it is another by now, so is the client: a notebook's process
    lives longer than its user's keys."""

    pid: int
    """Clients do not survive a fork: the child makes its own."""
    variables: tuple[tuple[str, str], ...]
    files: tuple[Version, ...]


def chain() -> Chain:
    """That of this moment."""
    variables = {name: os.environ.get(name, "") for name in list(os.environ) if name.startswith(OF_STORES)}
    return Chain(os.getpid(), tuple(variables.items()), tuple(versions(variables)))


def client_of(place: Place, retries: int = LATER) -> ObjectStore:
    """This process' client of a bucket, with the credentials of this moment."""
    with making:
        return _client(chain(), place, retries)


@lru_cache
def _client(chain: Chain, place: Place, retries: int) -> ObjectStore:
    from obstore import store as stores

    environment, s3, name = Environment.read(), place.s3, place.name
    retry: RetryConfig = {
        "max_retries": retries,
        "retry_timeout": timedelta(minutes=3),
        # A pause is drawn between the first one and `base` times the last: with 2, pauses stay short, and 30 of them
        # were over in 13 s (median). With 6, all but one in a thousand last for two minutes.
        "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=10), "base": 6},
    }
    options: ClientConfig = {
        "allow_http": s3.allow_http,
        "connect_timeout": timedelta(seconds=5),
        "read_timeout": timedelta(seconds=ANSWERS[retries]),
        "timeout": WHOLE,
    }
    if place.scheme == "gs":
        if host := environment.gcs_emulator:
            return stores.GCSStore(
                name,
                # It takes any token. Without one, obstore would look for credentials as soon as it writes.
                config={"base_url": host if "://" in host else f"http://{host}", "bearer_token": "none"},
                client_options=options | {"allow_http": True},
                retry_config=retry,
            )
        return stores.GCSStore(name, client_options=options, retry_config=retry)
    if place.scheme == "az":
        return stores.AzureStore(name, client_options=options, retry_config=retry)
    if ca_file := authority(s3, environment):
        options["root_certificate"] = Path(ca_file).read_bytes()
    settings = {
        "region": place.region,
        "endpoint": place.endpoint,
        "virtual_hosted_style_request": not path_style(s3, place.endpoint),
        "request_payer": s3.requester_pays,
        "server_side_encryption": s3.encryption,
        "sse_kms_key_id": s3.kms_key,
        "checksum_algorithm": s3.checksum,
    }
    return stores.S3Store(
        name,
        config=cast("ClientSettings", {key: value for key, value in settings.items() if value is not None}),
        client_options=options,
        retry_config=retry,
        credential_provider=Credentials(),
    )


class Credentials:
    """botocore's default chain, in the form that obstore asks for. Raises UserError where no link of it has any."""

    def __init__(self) -> None:
        try:
            self._credentials = session().get_credentials()
            self._last = self._credentials and self._credentials.get_frozen_credentials()
        except Exception as error:
            raise no_credentials(error) from error
        if self._last is None:
            raise UserError(
                "no AWS credentials: log in (`aws sso login`), set AWS_PROFILE, or give this machine or pod a role. "
                "`fruitpipe doctor` says what was looked at."
            )
        if not SENDABLE.fullmatch(f"{self._last.access_key}{self._last.token or ''}"):
            raise UserError(
                f"the access key or session token (from {self._credentials.method}) has a line end, or another "
                "character that neither may have: set it again without it."
            )

    def __call__(self) -> S3Credential:
        # botocore renews ten minutes before the end. Until then the last ones will do, if who gives them is away.
        with suppress(Exception):
            self._last = self._credentials.get_frozen_credentials()
        remember(self._last.secret_key, self._last.token)
        return {
            "access_key_id": self._last.access_key,
            "secret_access_key": self._last.secret_key,
            "token": self._last.token,
            "expires_at": datetime.now(UTC) + ASK_AGAIN,
        }


def session() -> Any:
    import botocore.session

    made = botocore.session.Session()
    made.register("before-send", remember_token)
    return made


def remember_token(request: Any, **_: Any) -> None:
    """Each session has one of its own where they come from a role."""
    token = request.headers.get("X-Amz-Security-Token")
    remember(token.decode() if isinstance(token, bytes) else token)


def botocore_client(place: Place, retries: int = LATER) -> Any:
    """For what obstore cannot do: keys that it cannot name, where a bucket lives, unfinished uploads, who we are."""
    with making:
        return _botocore_client(chain(), place.endpoint, place.region, place.s3, retries)


@lru_cache
def _botocore_client(chain: Chain, endpoint: str | None, region: str | None, s3: S3Config, retries: int) -> Any:
    from botocore.config import Config

    environment = Environment.read()
    config = Config(
        s3={"addressing_style": "path" if path_style(s3, endpoint) else "virtual"},
        retries={"mode": "standard", "total_max_attempts": retries + 1 if retries == AT_FIRST else ATTEMPTS},
        connect_timeout=3 if retries == AT_FIRST else 5,
        read_timeout=ANSWERS[AT_FIRST] if retries == AT_FIRST else READ,
    )
    return session().create_client(
        "s3", region_name=region, endpoint_url=endpoint, verify=authority(s3, environment), config=config
    )


def path_style(s3: S3Config, endpoint: str | None) -> bool:
    return s3.path_style if s3.path_style is not None else endpoint is not None


def authority(s3: S3Config, environment: Environment) -> str | None:
    """PEM file of those whose certificates to trust besides the usual ones. Raises UserError where it is none."""
    name, file = ("s3.ca_file", s3.ca_file) if s3.ca_file else ("AWS_CA_BUNDLE", environment.aws_ca_file)
    if file:
        try:
            ssl.create_default_context(cafile=file)
        except OSError as error:
            why = "it has no certificates" if isinstance(error, ssl.SSLError) else error.strerror
            advice = f"{name} names the PEM file of the endpoint's authority"
            raise UserError(f"cannot use {file}, {why}: {advice}.") from error
    return file
