"""What goes wrong on a cluster, done on purpose: each to a release of its own, with what `status` is to say of it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from cluster import KIND, NAMESPACE, kubectl
from seaweed import BUCKET

from fruitpipe.errors import UserError
from fruitpipe.releases.causes import Cause
from fruitpipe.releases.connection import Connection
from fruitpipe.releases.observation import Observation, container_of, observe
from fruitpipe.releases.plain import dig, time_of
from fruitpipe.releases.release import Release
from fruitpipe.releases.status import status_of

ELSEWHERE = "fruitpipe-elsewhere"
"""A namespace that no operator watches."""


@dataclass(frozen=True)
class Mishap:
    """One fault."""

    name: str
    what: str
    """pattern of the cause as it is to be told"""
    advice: str
    """pattern of the next step"""
    values: dict[str, Any] = field(default_factory=dict)
    """of the chart"""
    pipeline: dict[str, Any] = field(default_factory=dict)
    """of the config"""
    objects: tuple[dict[str, Any], ...] = ()
    """that are there meanwhile"""
    gone: tuple[str, ...] = ()
    """objects of the release that are deleted while it is suspended, such as `rolebinding`"""
    namespace: str = NAMESPACE
    runs: bool = False
    """whether a driver starts: it takes longer than the others"""

    def is_told_by(self, cause: Cause) -> bool:
        return bool(re.search(self.what, cause.what) and re.search(self.advice, cause.advice))


def quota(name: str, **hard: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": name}, "spec": {"hard": hard}}


def secret(name: str, **content: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": content}


MISHAPS = (
    Mishap(
        "an image that is not there",
        r"image nowhere\.invalid/fruitpipe:1 cannot be pulled \(.+\)",
        r"image\.repository",
        {"image": {"repository": "nowhere.invalid/fruitpipe", "tag": "1"}},
    ),
    Mishap(
        "a namespace that no operator watches",
        f"operator does not watch namespace {ELSEWHERE}, but .*{NAMESPACE}",
        r"spark\.jobNamespaces",
        objects=({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": ELSEWHERE}},),
        namespace=ELSEWHERE,
    ),
    Mishap("a Secret that is missing", "no secret not-there", "make it", {"secrets": ["not-there"]}),
    Mishap(
        "the Secret of authentication is missing",
        "no secret not-there",
        "make it",
        {"authenticationSecret": "not-there"},
    ),
    Mishap("the service account is missing", "no service account", r"make it", gone=("serviceaccount/{name}",)),
    Mishap(
        "a quota without room for the driver",
        "quota tight leaves no room for the driver",
        "raise it",
        objects=(quota("tight", **{"requests.memory": "100Mi"}),),
    ),
    Mishap(
        "a quota without room for executors",
        "quota tight leaves no room for executors",
        r"executor\.memory",
        {"executor": {"instances": 1, "memory": "4g"}},
        objects=(quota("tight", **{"requests.memory": "3Gi"}),),
        runs=True,
    ),
    Mishap(
        "a driver larger than any node",
        "no node takes the driver .*memory",
        r"driver\.memory",
        {"driver": {"memory": "900g"}},
    ),
    Mishap(
        "nodes without the label that is asked for",
        "no node takes the driver .*(selector|affinity)",
        r"driver\.nodeSelector",
        {"driver": {"nodeSelector": {"disk": "none-such"}}},
    ),
    Mishap(
        "executors larger than any node",
        "no node takes the executor .*memory",
        r"executor\.memory",
        {"executor": {"memory": "900g"}},
        runs=True,
    ),
    Mishap(
        "executors with GPUs, which no node has",
        r"no node takes the executor .*nvidia\.com/gpu",
        r"executor\.gpu",
        {"executor": {"gpu": {"amount": 1}}},
        runs=True,
    ),
    Mishap(
        "a priority class that is missing",
        "no PriorityClass none-such",
        "make it",
        {"driver": {"priorityClassName": "none-such"}},
    ),
    Mishap(
        "an account without rights",
        "Kubernetes refuses what the driver asks for .*forbidden.*chart's Role",
        "fruitpipe logs",
        gone=("rolebinding/{name}",),
        runs=True,
    ),
    Mishap(
        "a bucket that is not there",
        "no bucket.*(check|make)",
        "fruitpipe logs",
        pipeline={"input": "s3://none-such-bucket/images"},
        runs=True,
    ),
    Mishap(
        "no images",
        "no images.*looked for",
        "fruitpipe logs",
        pipeline={"input": f"s3://{BUCKET}/none-such"},
        runs=True,
    ),
    Mishap(
        "a closed port",
        r"does not answer.*networkPolicy\.stor",
        "fruitpipe logs",
        {"networkPolicy": {"storePorts": [443]}},
        runs=True,
    ),
    Mishap(
        "keys that are wrong",
        "access key.*[Ll]og in again",
        "fruitpipe logs",
        {"secrets": ["wrong-keys"]},
        objects=(secret("wrong-keys", AWS_ACCESS_KEY_ID="AKIANOBODY", AWS_SECRET_ACCESS_KEY="x" * 40),),
        runs=True,
    ),
    Mishap(
        "a driver with too little memory",
        "driver was killed for want of memory",
        r"driver\.memoryOverhead",
        {"driver": {"memory": "471m", "memoryOverhead": "1m"}, "executor": {"cores": 6}},
        {"evaluate": True},
        runs=True,
    ),
    Mishap("a time limit", r"timeLimitSeconds \(5\)", "raise", {"timeLimitSeconds": 5}, runs=True),
    Mishap("it is suspended", "suspended", "rerun", {"suspend": True}),
    Mishap("a queue that nobody serves", "waits in queue none-such", "queue", {"queue": "none-such", "suspend": True}),
)


class Told(NamedTuple):
    """What `status` said."""

    cause: Cause | None
    seconds: float
    """after the fault that it was said; after submitting where nothing shows when that was"""


@contextmanager
def befallen(mishap: Mishap, name: str, values: dict[str, Any]) -> Iterator[Release]:
    """A release that has this mishap. values: of one that has none."""
    apart = f"--namespace={mishap.namespace}"
    for each in mishap.objects:
        kubectl("apply", apart, "--filename=-", given=each)
    release = Release(name, Connection(namespace=mishap.namespace))
    given = merged(values, {**mishap.values, "pipeline": mishap.pipeline})
    try:
        release.helm.install(name, [], given | {"suspend": True} if mishap.gone else given)
        for each in mishap.gone:
            kubectl("delete", each.format(name=name))
        if mishap.gone:
            kubectl("patch", KIND, name, "--type=merge", '--patch={"spec": {"suspend": false}}')
        yield release
    finally:
        with suppress(UserError):  # it was refused
            release.delete()
        for each in mishap.objects:
            kubectl("delete", "--wait=false", apart, each["kind"].lower(), each["metadata"]["name"])


def told(release: Release, wanted: Callable[[Cause], bool], seconds: float = 300) -> Told:
    """What `status` says of a release, asked until it is what is wanted or time is up."""
    end = time.monotonic() + seconds
    while True:
        cause = status_of(release.connection, release.name, result=False).cause
        now = datetime.now(UTC)
        if (cause and wanted(cause)) or time.monotonic() > end:
            return Told(cause, (now - moment(observe(release.connection, release.name))).total_seconds())
        time.sleep(0.3)


def moment(seen: Observation) -> datetime:
    """When what is wrong began: the end of the driver or its submission, or when a pod or the application was made."""
    application, driver = seen.application, seen.driver
    found = time_of(
        dig(container_of(driver), "state", "terminated", "finishedAt")
        or next((each["metadata"]["creationTimestamp"] for each in seen.executors), None)
        or dig(driver, "metadata", "creationTimestamp")
        or next((each["lastTimestamp"] for each in seen.events if each["reason"].endswith("SubmissionFailed")), None)
        or dig(application, "metadata", "creationTimestamp")
    )
    assert found is not None, "everything has a time"
    return found


def merged(values: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    """Values with others on top."""
    made = dict(values)
    for name, value in others.items():
        both = isinstance(made.get(name), dict) and isinstance(value, dict)
        made[name] = merged(made[name], value) if both else value
    return made
