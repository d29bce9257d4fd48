"""Check all that a run needs, one thing after the other, and say of each that it is well or what to do."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

import psutil

from fruitpipe import source
from fruitpipe.backbones import by_name
from fruitpipe.config import Config, Environment, is_remote, local_path
from fruitpipe.errors import FruitpipeError, UserError
from fruitpipe.images import BadImage
from fruitpipe.objects import Bucket, open_bucket, split
from fruitpipe.objects.clients import AT_FIRST, botocore_client, session
from fruitpipe.objects.refusal import one_line
from fruitpipe.source import Reader
from fruitpipe.source.inputs import kind_of
from fruitpipe.spark import cluster, find_java, java_version
from fruitpipe.store import open_store
from fruitpipe.units import size

WORKER, JVM = 400 << 20, 1 << 30
"""Bytes that a Python worker and Spark's JVM hold, about."""
SKEW = 300
"""Seconds that a clock may differ; S3 refuses requests beyond 15 minutes."""


class Finding(NamedTuple):
    """One thing that was looked at."""

    subject: str
    """`java`, or a place and what was done with it"""
    ok: bool
    message: str
    """what was found, or what to do"""


def examine(config: Config, places: bool = True) -> Iterator[Finding]:
    """Look at this machine and, if `places`, at the config's input and output. Writes one small object and deletes it.

    What depends on something that is not well is not looked at.
    """
    environment = Environment.read()
    yield look("java", lambda: java(environment))
    yield look("memory", lambda: memory(config))
    yield look("weights", lambda: weights(config, environment))
    yield look("spark", lambda: spark(config, environment))
    if not places:
        return
    buckets = ("{}://{}".format(*split(url)) for url in [*config.inputs, config.output] if is_remote(url))
    for bucket in dict.fromkeys(buckets):
        yield from examine_bucket(bucket, config)
    for url in config.inputs:
        yield look(f"input {url}", partial(readable, url, config))
    yield look(f"output {config.output}", lambda: writable(config))


def look(subject: str, check: Callable[[], str]) -> Finding:
    """What a check finds, or the error that it raises."""
    try:
        return Finding(subject, True, check())
    except FruitpipeError as error:
        return Finding(subject, False, str(error))


def java(environment: Environment) -> str:
    home = find_java(environment)
    return f"{java_version(home)} in {home}"


def memory(config: Config) -> str:
    slots = psutil.cpu_count() or 1
    needed, there = slots * WORKER + JVM, psutil.virtual_memory().available
    if needed > there:
        raise UserError(
            f"{size(there)} free, but {slots} workers and Spark's JVM need about {size(needed)}: run fewer at once, "
            f"such as --set spark.master=local[{max(int((there - JVM) // WORKER), 1)}]."
        )
    return f"{size(there)} free, about {size(needed)} needed for {slots} workers and Spark's JVM"


def weights(config: Config, environment: Environment) -> str:
    backbone = by_name(config.backbone, environment.keras_home)
    if backbone is None:
        raise UserError(
            f"no weights of {config.backbone} on this machine: Keras downloads them at the first run. Without a "
            "network, copy them to KERAS_HOME, or use --set backbone=efficientnet_lite0."
        )
    return f"{config.backbone} at hand"


def spark(config: Config, environment: Environment) -> str:
    with (
        tempfile.TemporaryDirectory(prefix="fruitpipe-") as folder,
        cluster(config.spark, environment, Path(folder, "spark.log")) as started,
    ):
        return f"{config.spark.master} starts and runs tasks, {started.slots} at once"


def examine_bucket(url: str, config: Config) -> Iterator[Finding]:
    scheme = split(url)[0]
    if scheme == "s3":
        yield look(f"{url} credentials", credentials)
    opened: list[Bucket] = []

    def endpoint() -> str:
        opened.append(open_bucket(url, config.s3))
        where = opened[0].place
        region = f", region {where.region}" if where.region else ""
        return f"{where.server}{region}{identity() if where.endpoint is None and scheme == 's3' else ''}"

    yield look(f"{url} endpoint", endpoint)
    if opened and scheme == "s3":
        yield look(f"{url} clock", lambda: clock(opened[0]))


def credentials() -> str:
    """Which link of the chain has credentials, and whose they are; of a key, only its end is shown."""
    found = session().get_credentials()
    if found is None:
        raise UserError(
            "none: looked at the environment, profiles in ~/.aws, web identity, container and instance roles. Log in "
            "(`aws sso login`), set AWS_PROFILE, or give this machine or pod a role."
        )
    return f"from {found.method}, access key …{found.get_frozen_credentials().access_key[-4:]}"


def identity() -> str:
    """Who AWS says we are."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return f", as {session().create_client('sts').get_caller_identity()['Arn']}"
    except (BotoCoreError, ClientError) as error:
        raise UserError(f"AWS does not accept the credentials: {one_line(str(error))}. Log in again.") from error


def clock(bucket: Bucket) -> str:
    client = botocore_client(bucket.place, AT_FIRST)
    try:
        answer = client.head_bucket(Bucket=bucket.place.name)
    except client.exceptions.ClientError as error:
        answer = error.response
    there = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
    seconds = (datetime.now(UTC) - there).total_seconds()
    if abs(seconds) > SKEW:
        direction = "ahead of" if seconds > 0 else "behind"
        raise UserError(f"this machine is {abs(seconds):.0f} s {direction} {bucket.place.server}: set its clock (NTP).")
    return f"within {max(abs(seconds), 1):.0f} s of {bucket.place.server}"


def readable(url: str, config: Config) -> str:
    batch = next(source.list_images(url, config.labels, s3=config.s3, batch=1000), None)
    if batch is None:
        raise UserError("no images there: check the path.")
    first, etag = batch["path"][0].as_py(), batch["etag"][0].as_py()
    try:
        data = Reader(config.s3, config.image.max_bytes).read(first, etag)
    except BadImage as error:
        raise UserError(f"{first} cannot be read, {error.status}: {error}.") from error
    listed = "named" if kind_of(url) == "manifest" else "listed"
    return f"images {listed}, {first} read ({size(len(data))})"


def writable(config: Config) -> str:
    store = open_store(config.output, config.s3)
    made = not is_remote(config.output) and not Path(local_path(config.output)).exists()
    store.prepare()
    name = f".doctor-{uuid.uuid4().hex[:8]}.tmp"
    try:
        store.put(name, b"fruitpipe doctor")
        if store.find(name) != b"fruitpipe doctor":
            raise UserError("what was written is not what is read: this store is not consistent.")
        conditional = store.swaps()
    except OSError as error:
        raise UserError(f"cannot write: {error.strerror}. Choose another output.") from error
    finally:
        store.delete(name)
        if made:
            Path(local_path(config.output)).rmdir()
    return f"written, read, deleted; conditional writes {'work' if conditional else 'are not supported'}"
