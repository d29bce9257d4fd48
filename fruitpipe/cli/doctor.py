"""Check all that a run needs, one thing after the other, and say of each that it is well or what to do."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import NamedTuple

import psutil

from fruitpipe import source
from fruitpipe.backbones import resolve
from fruitpipe.backbones.family import worker_memory
from fruitpipe.cli import kubernetes_access as rights
from fruitpipe.config import Config, Environment, absolute_path, is_remote
from fruitpipe.errors import FruitpipeError, NotLearnt, UserError, in_words
from fruitpipe.objects import Bucket, bucket_of, open_bucket, split
from fruitpipe.objects.clients import AT_FIRST, botocore_client, session
from fruitpipe.objects.error_messages import in_our_words, one_line
from fruitpipe.objects.opening import head
from fruitpipe.objects.place import Place
from fruitpipe.scratch import leave_deleted_folder, private_folder
from fruitpipe.source import Reader
from fruitpipe.source.inputs import kind_of
from fruitpipe.spark.choice import by_spark, is_by_processes
from fruitpipe.spark.java import find_java, java_version
from fruitpipe.storage import layout
from fruitpipe.storage.store import open_store
from fruitpipe.units import size
from fruitpipe.vision.bad_image import BadImage
from fruitpipe.vision.resampling import COMPILING, Library, compiled_file
from fruitpipe.workers import allowance

JVM = 1 << 30
"""Bytes that Spark's JVM holds, about."""
SKEW = 300
"""Seconds that a clock may differ; S3 refuses requests beyond 15 minutes."""


class Finding(NamedTuple):
    """What one probe found."""

    subject: str
    """`java`, or a place and what was done with it"""
    ok: bool
    message: str
    """what was found, or what to do"""


def diagnose(config: Config, places: bool) -> Iterator[Finding]:
    """Probe this machine and, if `places`, the config's input and output. Writes one small object and deletes it.

    What depends on something that is not well is not probed.

    Raises UserError where a place starts from a working folder that has been deleted.
    """
    require_folder_of([*config.inputs, config.output] if places else [])  # now, as the probe of Spark leaves it
    environment = Environment.read()
    runtime = finding_of("java", lambda: java(environment))
    can_do_without = is_by_processes(config.spark, environment)
    yield runtime if runtime.ok or not can_do_without else needless(runtime)
    yield finding_of("memory", lambda: memory(config))
    yield finding_of("resampling", resampling)
    for part in config.parts.values():
        yield finding_of("weights", partial(weights, part, environment))
    if runtime.ok:
        yield finding_of("spark", lambda: spark(config, environment))
    if account := environment.account:
        granted = finding_of("rights", lambda: rights.confirm(account))
        yield granted
        if granted.ok:
            yield finding_of("neighbours", lambda: rights.foreign_pods(account))
    if not places:
        return
    unwell = set()
    for bucket in dict.fromkeys(bucket_of(url) for url in [*config.inputs, config.output] if is_remote(url)):
        for finding in diagnose_bucket(bucket, config):
            yield finding
            if not finding.ok:
                unwell.add(bucket)
    for url in config.inputs:
        if bucket_of(url) not in unwell:
            yield finding_of(f"input {url}", partial(readable, url, config))
    for part in config.parts.values():
        if bucket_of(part.output) not in unwell:
            yield finding_of(f"output {part.output}", partial(writable, part))


def require_folder_of(places: Iterable[str]) -> None:
    """Raise UserError where one of some places starts from a working folder that has been deleted."""
    for place in places:
        if not is_remote(place):
            absolute_path(place)


def finding_of(subject: str, probe: Callable[[], str]) -> Finding:
    """The finding of a probe, whether it returns or raises."""
    try:
        return Finding(subject, True, probe())
    except FruitpipeError as error:
        return Finding(subject, False, str(error))
    except OSError as error:
        return Finding(subject, False, in_words(error))


def needless(java: Finding) -> Finding:
    """That there is no Java, where it is not needed."""
    return java._replace(ok=True, message=f"only long runs need it: {java.message}")


def java(environment: Environment) -> str:
    home = find_java(environment)
    return f"{java_version(home)} in {home}"


def memory(config: Config) -> str:
    slots = workers_here(config.spark.master)
    worker = worker_memory(config.parts.values()) << 20
    needed, there = slots * worker + JVM, min(psutil.virtual_memory().available, allowance.memory())
    if needed > there:
        fitting = int((there - JVM) // worker)
        fewer = f"run fewer at once, such as --set spark.master=local[{fitting}]"
        none = "end other programs, or choose a smaller backbone (`fruitpipe backbones` lists them)"
        raise UserError(
            f"{size(there)} free, but {slots} workers and Spark's JVM need about {size(needed)}: "
            f"{fewer if fitting > 0 else none}."
        )
    return f"{size(there)} free, about {size(needed)} needed for {slots} workers and Spark's JVM"


def workers_here(master: str) -> int:
    """Python workers that a Spark master means for this machine."""
    if pseudo := re.match(r"local-cluster\[ *(\d+) *, *(\d+)", master):  # executors, and the cores of each
        return int(pseudo[1]) * int(pseudo[2])
    local = re.match(r"auto|local(?:\[(\*|\d+))?", master)
    if local is None:
        return 0
    return allowance.cores() if master == "auto" or local[1] == "*" else int(local[1] or 1)


def resampling() -> str:
    if not (file := compiled_file()).exists():
        return f"by Pillow; `{COMPILING}`, which needs a C compiler, makes it faster, in the same bits"
    try:
        Library(file)
    except OSError as error:
        raise UserError(f"{error}: compile it again by `{COMPILING}`. Until then, Pillow resamples.") from error
    return "by compiled code"


def weights(config: Config, environment: Environment) -> str:
    try:
        resolved = resolve(config, environment)
    except NotLearnt as reason:
        return str(reason)
    runs = f"{size(resolved.engine.size)}, run by {resolved.engine.kind}"
    return f"{config.backbone} at hand, {resolved.facts.dimension} features ({runs})"


def spark(config: Config, environment: Environment) -> str:
    leave_deleted_folder()
    with (
        private_folder() as folder,
        by_spark(config.spark, environment, folder) as started,
    ):
        runs = f"{config.spark.master} starts and runs tasks, {started.slots} at once"
        return "; ".join(filter(None, [runs, started.note]))


def diagnose_bucket(url: str, config: Config) -> Iterator[Finding]:
    scheme = split(url)[0]
    if scheme == "s3":
        keys = finding_of(f"{url} credentials", credentials)
        yield keys
        if not keys.ok:
            return
    opened: list[Bucket] = []

    def endpoint() -> str:
        opened.append(open_bucket(url, config.s3))
        where = opened[0].place
        region = f", region {where.region}" if where.region else ""
        return f"{where.server}{region}{identity(where) if where.endpoint is None and scheme == 's3' else ''}"

    yield finding_of(f"{url} endpoint", endpoint)
    if opened and scheme == "s3":
        yield finding_of(f"{url} clock", lambda: clock(opened[0]))


def credentials() -> str:
    """Which link of the chain has credentials, and whose they are; of a key, only its end is shown."""
    try:
        found = session().get_credentials()
        key = found.get_frozen_credentials().access_key if found else ""
    except Exception as error:
        raise UserError(
            f"{one_line(str(error)) or type(error).__name__}. Log in again, or fix what it names."
        ) from error
    if not key:
        raise UserError(
            "none: looked at the environment, profiles in ~/.aws, web identity, container and instance roles. Log in "
            "(`aws sso login`), set AWS_PROFILE, or give this machine or pod a role."
        )
    return f"from {found.method}, access key …{key[-4:]}"


def identity(place: Place) -> str:
    """Who AWS says we are; nothing where only S3 can be reached."""
    from botocore.config import Config as Settings
    from botocore.exceptions import BotoCoreError, ClientError

    brief = Settings(connect_timeout=3, read_timeout=5, retries={"total_max_attempts": 2})
    try:
        client = session().create_client("sts", region_name=place.region, config=brief)
        return f", as {client.get_caller_identity()['Arn']}"
    except ClientError as error:
        if error.response["Error"]["Code"].startswith("AccessDenied"):  # good credentials, which may not ask this
            return ""
        raise UserError(f"AWS does not accept the credentials: {one_line(str(error))}. Log in again.") from error
    except BotoCoreError:
        return ""


def clock(bucket: Bucket) -> str:
    with in_our_words(bucket.place, "list"):
        told = head(botocore_client(bucket.place, AT_FIRST), bucket.place.name).get("date")
    if not told:
        return f"{bucket.place.server} does not tell the time"
    there = parsedate_to_datetime(told)
    seconds = (datetime.now(UTC) - there).total_seconds()
    if abs(seconds) > SKEW:
        direction = "ahead of" if seconds > 0 else "behind"
        raise UserError(f"this machine is {abs(seconds):.0f} s {direction} {bucket.place.server}: set its clock (NTP).")
    return f"within {max(abs(seconds), 1):.0f} s of {bucket.place.server}"


def readable(url: str, config: Config) -> str:
    source.check_inputs([url], config.s3)
    others: Counter[str] = Counter()
    listing = source.list_images(url, config.labels, s3=config.s3, batch=1000, others=others, allow=config.lists.allow)
    batch = next(listing, None)
    if batch is None:
        raise source.no_images([url], others)
    first, etag = batch["path"][0].as_py(), batch["etag"][0].as_py()
    try:
        data = Reader(config.s3, config.image.max_bytes).read(first, etag)
    except BadImage as error:
        raise UserError(f"{first} cannot be read, {error.status}: {str(error).rstrip('.')}.") from error
    listed = "named" if kind_of(url) == "list" else "listed"
    return f"images {listed}, {first} read ({size(len(data))})"


def writable(config: Config) -> str:
    source.check_apart(config.inputs, config.output)
    store = open_store(config.output, config.s3)
    folders = () if is_remote(config.output) else (folder := absolute_path(config.output), *folder.parents)
    made = [each for each in folders if not os.path.exists(each)]  # noqa: PTH110 - names may be too long
    name = layout.scratch()
    try:
        store.create()
        store.put(name, b"fruitpipe doctor")
        if store.find(name) != b"fruitpipe doctor":
            raise UserError("what was written is not what is read: this store is not consistent. Choose another.")
        folds = store.folds(name)
        store.delete(name)
        conditional = store.swaps(name)
    except OSError as error:
        raise UserError(f"cannot write: {error.strerror}. Choose another output.") from error
    finally:
        with suppress(FruitpipeError, OSError):  # the first error is the one to tell
            store.delete(name)
        for each in made:
            with suppress(OSError):  # not made, or no longer empty
                each.rmdir()
    writes = f"conditional writes {'work' if conditional else 'are not supported'}"
    return f"written, read, deleted; {writes}{'; keys are paths: a//b is the same as a/b' if folds else ''}"
