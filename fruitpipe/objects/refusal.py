"""Why an object store refused, in one line that says what to do. Never repeats what may hold a key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from fruitpipe.errors import FruitpipeError, UserError
from fruitpipe.objects.clients import Place

Action = Literal["list", "read", "write", "delete"]
RIGHT = {"list": "s3:ListBucket", "read": "s3:GetObject", "write": "s3:PutObject", "delete": "s3:DeleteObject"}
CODE = re.compile(r"<Code>(\w+)</Code>|\(code: (\w+)\)|An error occurred \((\w+)\)")


class Forbidden(UserError):
    """Credentials are good, but not for this."""


class NoBucket(UserError):
    """There is no such bucket."""


REASONS: tuple[tuple[str, type[FruitpipeError], str], ...] = (
    ("NoSuchBucket", NoBucket, "no bucket {bucket} at {server}: check its name, s3.endpoint and s3.region."),
    (
        "InvalidAccessKeyId",
        UserError,
        "{server} does not know the access key: credentials of another account or store, or revoked ones. "
        "`fruitpipe doctor` says where they come from.",
    ),
    (
        "SignatureDoesNotMatch",
        UserError,
        "the secret key does not fit the access key at {server}: set both again, or see what a proxy changes.",
    ),
    (
        "ExpiredToken|TokenRefreshRequired|InvalidToken|RequestExpired",
        UserError,
        "the session token for {server} has expired or is not valid: log in again (`aws sso login`).",
    ),
    (
        "RequestTimeTooSkewed",
        UserError,
        "this machine's clock differs from that of {server}: set it (NTP), then run again.",
    ),
    (
        "PermanentRedirect|AuthorizationHeaderMalformed|IllegalLocationConstraint|without LOCATION",
        UserError,
        "{url} is in another region than {region}: set s3.region to where it is.",
    ),
    ("SlowDown|ServiceUnavailable", FruitpipeError, "{server} kept asking to slow down. What was computed is kept."),
    (
        "InvalidContentType|WRONG_VERSION_NUMBER|record layer",
        UserError,
        "{server} does not speak TLS: write http:// in s3.endpoint and allow_http: true, or mend the server.",
    ),
    ("HTTP request to an HTTPS", UserError, "{server} wants TLS: write https:// in s3.endpoint."),
    (
        "(?i:certificate|UnknownIssuer)",
        UserError,
        "the certificate of {server} is not trusted: give its authority's PEM file as s3.ca_file.",
    ),
    (
        "ConnectionRefused|Could not connect to the endpoint",
        UserError,
        "nothing answers at {server}: check s3.endpoint, and that the server runs.",
    ),
    ("lookup address|dns error", UserError, "no such host: {server}. Check s3.endpoint, and the network."),
    (
        "AccessDenied|403 Forbidden|AccountProblem|AllAccessDisabled|lacked",
        Forbidden,
        "no right to {action} {url}{right}: ask for it, or use other credentials{advice}.",
    ),
    ("404 Not Found", UserError, "{server} answers, but not as an object store: check s3.endpoint."),
)
"""What to look for in a client's error, in this order; what it means."""


@contextmanager
def explained(place: Place, action: Action, key: str = "") -> Iterator[None]:
    """Turn the errors of clients into ours.

    Raises FileNotFoundError where there is no such key, UserError for what a person can mend, FruitpipeError where the
    store did not answer for minutes.
    """
    try:
        yield
    except (FruitpipeError, FileNotFoundError) as error:
        if code_of(error) == "NoSuchBucket":
            raise explain(error, place, action, key) from error
        raise
    except Exception as error:
        if not is_a_client_s(error):
            raise
        raise explain(error, place, action, key) from error


def is_a_client_s(error: Exception) -> bool:
    return type(error).__module__.partition(".")[0] in {"obstore", "botocore", "urllib3", "google"}


def code_of(error: BaseException) -> str:
    """The store's own word for what is wrong, such as NoSuchBucket; empty where it said none."""
    found = CODE.search(str(error))
    return next(filter(None, found.groups())) if found else ""


def explain(error: BaseException, place: Place, action: Action, key: str = "") -> FruitpipeError:
    """The error of a client, as one of ours."""
    text = str(error)
    url = f"{place.url}/{key}" if key else place.url
    if (cause := re.search(r"External AWS credential provider: (?:\w+: )?(.+)", text)) or no_credentials(error):
        why = cause[1] if cause else one_line(text)
        return UserError(
            f"no AWS credentials: {why.rstrip('.')}. Log in again; `fruitpipe doctor` says what was tried."
        )
    right = f" ({RIGHT[action]})" if place.scheme == "s3" else ""
    advice = "; with the right to read alone, give a manifest of the images" if action == "list" else ""
    said = text.replace(place.name, "").replace(key, "") if key else text.replace(place.name, "")  # names say nothing
    for pattern, kind, message in REASONS:
        if re.search(pattern, said):
            facts = {"bucket": place.name, "server": place.server, "region": place.region, "url": url}
            return kind(message.format(**facts, action=action, right=right, advice=advice))
    return FruitpipeError(f"{action} of {url} failed: {one_line(text)}. What was computed is kept: run again.")


def no_credentials(error: BaseException) -> bool:
    return type(error).__module__ == "botocore.exceptions" and "Credential" in type(error).__name__


def one_line(text: str) -> str:
    """The first line, without what the server said in XML."""
    return re.sub(r"<\?xml.*", "", text.strip().splitlines()[0])[:300].rstrip(" :.")
