"""What a cluster says of a release at one moment, as plain objects."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from fruitpipe.errors import UserError
from fruitpipe.releases.connection import Connection, Kind
from fruitpipe.releases.operators import OPERATORS, Installed, Operator, operator_of
from fruitpipe.releases.plain import Plain, dig, time_of

SCHEDULES = Kind("sparkoperator.k8s.io", "v1beta2", "scheduledsparkapplications")
"""Only Kubeflow's operator has them."""
KINDS = (*(operator.kind for operator in OPERATORS), SCHEDULES)
WORKLOADS = Kind("kueue.x-k8s.io", "v1beta1", "workloads")
RELEASE = "app.kubernetes.io/instance"
COMPONENT = "app.kubernetes.io/component"
CONTAINER = "spark-kubernetes-"
"""With the role behind it, the container that Spark runs in."""
SCHEDULED_BY = "sparkoperator.k8s.io/scheduled-app-name"
WITHOUT_APPLICATION = "fruitpipe/suspended"
"""Label of the config of a release that is suspended by having no application."""


@dataclass(frozen=True)
class Observation:
    """What there is of a release."""

    name: str
    namespace: str
    application: Plain | None
    """the SparkApplication, of a schedule that of its last run; None where there is none now"""
    schedule: Plain | None = None
    """the ScheduledSparkApplication"""
    pods: list[Plain] = field(default_factory=list)
    """of the application"""
    events: list[Plain] = field(default_factory=list)
    """of the application and its pods, oldest first"""
    installed: list[Installed] | None = None
    """the cluster's operators that could run it; None where one may not ask"""
    quotas: list[Plain] = field(default_factory=list)
    workloads: list[Plain] = field(default_factory=list)
    """Kueue's"""
    moment: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def operator(self) -> Operator:
        return operator_of(self.schedule or self.application)

    @property
    def phase(self) -> str:
        """How the application is, as its operator has it."""
        return self.operator.phase(self.application)

    @property
    def suspended(self) -> bool:
        """Whether nothing is to run until it is said to."""
        owner = self.schedule or self.application
        return owner is None or bool(dig(owner, "spec", "suspend", default=False))

    @property
    def driver(self) -> Plain | None:
        """The newest driver's pod."""
        return max(self._pods("driver"), key=lambda pod: str(pod["metadata"]["creationTimestamp"]), default=None)

    @property
    def last_driver(self) -> Plain | None:
        """The newest driver's pod, or what the operator remembers of it."""
        return self.driver or self.operator.remembered(self.application)

    @property
    def executors(self) -> list[Plain]:
        return self._pods("executor")

    def _pods(self, component: str) -> list[Plain]:
        return [pod for pod in self.pods if dig(pod, "metadata", "labels", COMPONENT) == component]

    @property
    def asked(self) -> tuple[str, Plain]:
        """Another one after each change for which there is another run."""
        owner = self.schedule or self.application
        return str(dig(owner, "metadata", "uid")), asked_of_runs(owner)

    @property
    def submitted(self) -> datetime | None:
        """When the run that goes on, or the last one, was given to Spark."""
        if self.application is None:
            return time_of(dig(self.schedule, "status", "lastRun"))
        return self.operator.submitted(self.application)

    @property
    def age(self) -> float:
        """Seconds since the application was made."""
        made = time_of(dig(self.application or self.schedule, "metadata", "creationTimestamp"))
        return (self.moment - made).total_seconds() if made else 0.0


def find(connection: Connection, name: str) -> Observation | None:
    """A release's application and schedule; None where there is no release of this name.

    Raises UserError where no Spark operator is installed.
    """
    selector = f"{RELEASE}={name}"
    found = of_operators(connection, selector)
    if found is None:
        raise UserError(
            "no Spark operator is installed on this cluster: install one, such as Kubeflow's by `helm install "
            "spark-operator spark-operator --repo https://kubeflow.github.io/spark-operator --set "
            f"'spark.jobNamespaces={{{connection.namespace}}}'`."
        )
    schedule = schedule_in(found)
    if schedule:
        found = connection.custom(operator_of(schedule).kind, f"{SCHEDULED_BY}={schedule['metadata']['name']}") or []
    application = newest(found)
    if application or schedule or connection.config_maps(f"{selector},{WITHOUT_APPLICATION}"):
        return Observation(name, connection.namespace, application, schedule)
    return None


def of_operators(connection: Connection, selector: str, everywhere: bool = False) -> list[Plain] | None:
    """Applications and schedules of both operators that are not being deleted, for which Apache's takes its time.

    None where there is no operator. Raises UserError where one may see those of neither; who uses one needs no other.
    """
    listed, refused = [], []
    for kind in KINDS:
        try:
            listed.append(connection.custom(kind, selector, everywhere))
        except UserError as error:
            refused.append(error)
    known = [each for each in listed if each is not None]
    if refused and not known:
        raise refused[0]
    found = [each for objects in known for each in objects if not dig(each, "metadata", "deletionTimestamp")]
    return found if known else None


def schedule_in(found: list[Plain]) -> Plain | None:
    return next((each for each in found if each.get("kind") == "ScheduledSparkApplication"), None)


def newest(found: list[Plain]) -> Plain | None:
    """The application that was made last."""
    applications = [each for each in found if each.get("kind") == "SparkApplication"]
    return max(applications, key=lambda each: str(each["metadata"]["creationTimestamp"]), default=None)


def require(connection: Connection, name: str) -> Observation:
    """As `find`. Raises UserError where there is no release of this name."""
    found = find(connection, name)
    if found is None:
        raise UserError(f"no release {name} in namespace {connection.namespace}: `fruitpipe list` shows them.")
    return found


def observe(connection: Connection, name: str) -> Observation:
    """What there is of a release. Raises UserError where there is none of this name."""
    found = require(connection, name)
    application, schedule = found.application, found.schedule
    pods = pods_of(connection, found)
    known = {each["metadata"].get("uid") for each in (application, schedule, *pods) if each}
    events = [
        event
        for event in connection.events()
        if event["involvedObject"].get("uid") in known or is_of_lost_driver(event, found)
    ]
    return replace(
        found,
        pods=pods,
        events=events,
        installed=find_installed(connection, found.operator),
        quotas=connection.quotas(),
        workloads=[each for each in connection.custom(WORKLOADS) or [] if owned(each, known)],
    )


def pods_of(connection: Connection, seen: Observation) -> list[Plain]:
    """Those of the application, and not of one that was there before."""
    if seen.application is None:
        return []
    label, name = seen.operator.application_label, seen.application["metadata"]["name"]
    return connection.pods(f"{RELEASE}={seen.name},{label}={name}")


def is_of_lost_driver(event: Plain, seen: Observation) -> bool:
    """Whether an event is of a driver that this application had."""
    name, made = (dig(seen.application, "metadata", key, default="") for key in ("name", "creationTimestamp"))
    return bool(
        re.fullmatch(re.escape(name) + seen.operator.driver, event["involvedObject"].get("name", ""))
        and made <= (event.get("firstTimestamp") or made)
    )


def find_installed(connection: Connection, operator: Operator) -> list[Installed] | None:
    """The operators of this kind; None where one may not ask."""
    try:
        return list(operator.installed(connection))
    except UserError:  # who may use one namespace need not see others
        return None


def asked_of_runs(application: Plain | None) -> Plain:
    """An application's spec but for the fields for whose change operators run nothing again; or a schedule's."""
    spec = dig(application, "spec", default={})
    return {name: value for name, value in spec.items() if name not in {"suspend", "timeToLiveSeconds"}}


def container_of(pod: Plain | None) -> Plain:
    """What the kubelet says of Spark's container, by its name, as others may come before it, such as a mesh's."""
    found = dig(pod, "status", "containerStatuses", default=[])
    return next((each for each in found if each["name"].startswith(CONTAINER)), {})


def owned(workload: Plain, uids: set[Any]) -> bool:
    return any(owner.get("uid") in uids for owner in dig(workload, "metadata", "ownerReferences", default=[]))
