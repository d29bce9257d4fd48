"""Why an object store refused, in one line that says what to do. Never repeats what may hold a key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import TYPE_CHECKING, Literal

from fruitpipe.config import Environment
from fruitpipe.errors import FruitpipeError, UserError
from fruitpipe.redaction import without_secrets

if TYPE_CHECKING:
    from fruitpipe.objects.place import Place

Action = Literal["list", "list uploads to", "read", "write", "delete"]
OTHERS = "have this machine trust its authority, or what is between (VPN, proxy)"
TRUST = {"s3": "give its authority's PEM file as s3.ca_file", "gs": OTHERS, "az": OTHERS}
POLICY = "the chart's networkPolicy.stores and networkPolicy.storePorts"
"""What stands between a pod and a store, first of all."""
AGAIN = "Try again later; a run goes on where it stood."
RIGHT = {
    "list": "s3:ListBucket",
    "list uploads to": "s3:ListBucketMultipartUploads",
    "read": "s3:GetObject",
    "write": "s3:PutObject",
    "delete": "s3:DeleteObject",
}
CODE = re.compile(r"<Code>(\w+)</Code>|\(code: (\w+)\)|An error occurred \((\w+)\)")


class Forbidden(UserError):
    """Credentials are good, but not for this."""


class NoBucket(UserError):
    """There is no such bucket."""


REASONS: tuple[tuple[str, type[FruitpipeError], str], ...] = (
    (
        "GCS error: (Error performing token request|Unable to (open|decode) service account)",
        UserError,
        "no valid credentials for {server}: log in (`gcloud auth application-default login`), name a service account's "
        "key file in GOOGLE_APPLICATION_CREDENTIALS, or give this machine or pod a service account.",
    ),
    ("Azure error: Account must be specified", UserError, "no Azure account: set AZURE_STORAGE_ACCOUNT_NAME."),
    (
        "Azure error: (Error performing token request|Invalid Access Key)|<Code>AuthenticationFailed",
        UserError,
        "no valid credentials for {server}: set AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN, log in "
        "(`az login`, AZURE_USE_AZURE_CLI=true), or give this machine or pod an identity.",
    ),
    (
        "ContainerNotFound",
        NoBucket,
        "no container {bucket} at {server}: check its name and AZURE_STORAGE_ACCOUNT_NAME.",
    ),
    ("NoSuchBucket", NoBucket, "no bucket {bucket} at {server}: check its name, and {setting}."),
    (
        "InvalidAccessKeyId",
        UserError,
        "{server} does not know the access key: it is of another account or store, was revoked, or its session has "
        "expired. Log in again; `fruitpipe doctor` says where it comes from.",
    ),
    (
        "SignatureDoesNotMatch",
        UserError,
        "the secret key does not fit the access key at {server}: set both again, or see what a proxy changes.",
    ),
    (
        "ExpiredToken|TokenRefreshRequired|InvalidToken|RequestExpired",
        UserError,
        "the session token for {server} has expired or is not valid: log in again (`aws sso login`), or set a new one "
        "where it is set; `fruitpipe doctor` says where it comes from.",
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
    ("SlowDown|Service ?Unavailable", FruitpipeError, "{server} kept asking to slow down. {again}"),
    (
        "InvalidContentType|WRONG_VERSION_NUMBER|record layer",
        UserError,
        "{server} does not speak TLS: write http:// in {setting}, and s3.allow_http: true, or fix the server.",
    ),
    ("HTTP request to an HTTPS", UserError, "{server} wants TLS: write https:// in {setting}."),
    (
        "(?i:certificate|UnknownIssuer)",
        UserError,
        "the certificate of {server} is not trusted: {trust}.",
    ),
    (
        "lookup address|dns error|resolve host|Name or service not known",
        UserError,
        "cannot find {server} (no such host): check {setting}, and the network.",
    ),
    (
        "ConnectionRefused|Could not connect to the endpoint",
        UserError,
        "nothing answers at {server}: check {setting}, and that the server runs{policy}.",
    ),
    (
        "(Connect|Read) timeout on endpoint|operation timed out",
        UserError,
        "{server} does not answer in time: check {setting}, and what is between ({between}).",
    ),
    (
        "Connection was closed before",
        UserError,
        "{server} hangs up without an answer: check the port of {setting}.",
    ),
    (
        "AccessDenied|403 Forbidden|AccountProblem|AllAccessDisabled|lacked",
        Forbidden,
        "no right to {action} {url}{right}: ask for it, or use other credentials.",
    ),
    (
        r"404 Not Found|(?s:list request(?!.*<Code>).*status code: 4)",
        UserError,
        "{server} answers, but not as an object store: check {setting}.",
    ),
    (
        "Invalid endpoint|not a valid URI",
        UserError,
        "no address of a server in s3.endpoint or AWS_ENDPOINT_URL: write it as https://host:port.",
    ),
    ("region_name", UserError, "{region} is not a region: set s3.region or AWS_REGION to one such as eu-west-3."),
    ("Parameter validation failed", NoBucket, "{bucket} is not a bucket name: check the URL."),
)
"""What to look for in a client's error, in this order; what it means."""


@contextmanager
def in_our_words(place: Place, action: Action, key: str = "") -> Iterator[None]:
    """Turn the errors of clients into ours.

    Raises FileNotFoundError where there is no such key, UserError for what a person can fix, FruitpipeError where the
    store did not answer for minutes.
    """
    try:
        yield
    except (FruitpipeError, FileNotFoundError) as error:
        if code_of(error) == "NoSuchBucket":
            raise our_error(error, place, action, key) from error
        raise
    except Exception as error:
        if not is_a_client_s(error):
            raise
        raise our_error(error, place, action, key) from error


def is_a_client_s(error: Exception) -> bool:
    return type(error).__module__.partition(".")[0] in {"obstore", "botocore", "urllib3", "google"}


def code_of(error: BaseException) -> str:
    """The store's own word for what is wrong, such as NoSuchBucket; empty where it said none."""
    found = CODE.search(str(error))
    return next(filter(None, found.groups())) if found else ""


def our_error(error: BaseException, place: Place, action: Action, key: str = "") -> FruitpipeError:
    """The error of a client, as one of ours."""
    text = f"{error} {getattr(error, 'kwargs', {}).get('error', '')}"  # botocore keeps the cause apart
    url = f"{place.url}/{key}" if key else place.url
    if type(error).__module__ == "botocore.exceptions" and "Credential" in type(error).__name__:
        return no_credentials(error)
    right = f" ({RIGHT[action]})" if place.scheme == "s3" else ""
    in_pod = Environment.read().in_pod
    names = "|".join(re.escape(name) for name in (place.name, key) if name)
    said = re.sub(rf"(?<!\w)({names})(?!\w)", "", text)  # a bucket's name is no symptom
    for word, (pattern, kind, message) in product((code_of(error), said), REASONS):
        if re.search(pattern, word):
            facts = {
                "bucket": place.name,
                "server": place.server,
                "region": place.region,
                "url": url,
                "setting": setting_of(place),
                "trust": TRUST[place.scheme],
                "again": AGAIN,
                "policy": f", and {POLICY}" if in_pod else "",
                "between": f"{POLICY}, firewall, proxy" if in_pod else "VPN, firewall, proxy",
            }
            return kind(message.format(**facts, action=action, right=right))
    return FruitpipeError(f"{action} of {url} failed: {one_line(text)}. {AGAIN}")


def setting_of(place: Place) -> str:
    """What decides which server is asked."""
    match place.scheme:
        case "s3" if place.s3.endpoint:
            return "s3.endpoint"
        case "s3" if place.endpoint:
            return "AWS_ENDPOINT_URL, or endpoint_url of the profile"
        case "s3":
            return "the region, or s3.endpoint if it is not AWS"
        case "az":
            return "AZURE_STORAGE_ACCOUNT_NAME"
    return "STORAGE_EMULATOR_HOST" if Environment.read().gcs_emulator else "https_proxy, where there is one"


def no_credentials(error: BaseException) -> UserError:
    """Why a link of botocore's chain failed; some read files, some run programs."""
    why = one_line(str(error)) or type(error).__name__
    return UserError(f"no AWS credentials: {why}. Log in again; `fruitpipe doctor` says what was tried.")


def one_line(text: str) -> str:
    """The first line, without secrets and without what the server said in XML."""
    return re.sub(r"<\?xml.*", "", without_secrets(text).strip().partition("\n")[0])[:300].rstrip(" :.")
