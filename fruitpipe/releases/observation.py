"""What a cluster says of a release at one moment, as plain objects."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from fruitpipe.errors import UserError
from fruitpipe.releases.connection import Connection, Kind, Plain

APPLICATIONS = Kind("sparkoperator.k8s.io", "v1beta2", "sparkapplications")
SCHEDULES = Kind("sparkoperator.k8s.io", "v1beta2", "scheduledsparkapplications")
WORKLOADS = Kind("kueue.x-k8s.io", "v1beta1", "workloads")
DEPLOYMENTS = Kind("apps", "v1", "deployments")
RELEASE = "app.kubernetes.io/instance"
COMPONENT = "app.kubernetes.io/component"
SCHEDULED_BY = "sparkoperator.k8s.io/scheduled-app-name"


@dataclass(frozen=True)
class Operator:
    """A Spark operator of the cluster."""

    namespaces: tuple[str, ...]
    """that it watches; none for all"""
    ready: bool

    def watches(self, namespace: str) -> bool:
        return not self.namespaces or namespace in self.namespaces


@dataclass(frozen=True)
class Observation:
    """What there is of a release."""

    name: str
    namespace: str
    application: Plain | None
    """the SparkApplication, of a schedule that of its last run"""
    schedule: Plain | None = None
    """the ScheduledSparkApplication"""
    pods: list[Plain] = field(default_factory=list)
    events: list[Plain] = field(default_factory=list)
    """of the application and its pods, oldest first"""
    operators: list[Operator] | None = None
    """None where one may not ask"""
    quotas: list[Plain] = field(default_factory=list)
    workloads: list[Plain] = field(default_factory=list)
    """Kueue's"""
    moment: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def state(self) -> str:
        """The operator's word for how the application is; empty before it has said any."""
        return str(dig(self.application, "status", "applicationState", "state", default=""))

    @property
    def driver(self) -> Plain | None:
        """The newest driver's pod."""
        return max(self._pods("driver"), key=lambda pod: str(pod["metadata"]["creationTimestamp"]), default=None)

    @property
    def executors(self) -> list[Plain]:
        return self._pods("executor")

    def _pods(self, component: str) -> list[Plain]:
        return [pod for pod in self.pods if dig(pod, "metadata", "labels", COMPONENT) == component]

    @property
    def generation(self) -> int:
        """Grows with each change of the spec."""
        return int(dig(self.schedule or self.application, "metadata", "generation", default=0))

    @property
    def submitted(self) -> datetime | None:
        """When the run that goes on, or the last one, was given to Spark."""
        return time_of(dig(self.application, "status", "lastSubmissionAttemptTime"))

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
    schedules = connection.custom(SCHEDULES, selector) or []
    applications = connection.custom(APPLICATIONS, selector)
    if applications is None:
        raise UserError(
            "the Spark operator is not installed on this cluster: docs/kubernetes.md says how to install it."
        )
    schedule = schedules[0] if schedules else None
    if schedule:
        applications = connection.custom(APPLICATIONS, f"{SCHEDULED_BY}={schedule['metadata']['name']}") or []
    application = max(applications, key=lambda each: str(each["metadata"]["creationTimestamp"]), default=None)
    return Observation(name, connection.namespace, application, schedule) if application or schedule else None


def observe(connection: Connection, name: str) -> Observation:
    """What there is of a release. Raises UserError where there is none of this name."""
    found = find(connection, name)
    if found is None:
        raise UserError(f"no release {name} in namespace {connection.namespace}: `fruitpipe list` shows them.")
    application, schedule = found.application, found.schedule
    pods = connection.pods(f"{RELEASE}={name}")
    known = {each["metadata"].get("uid") for each in (application, schedule, *pods) if each}
    events = [
        event
        for event in connection.events()
        if event["involvedObject"].get("uid") in known or is_of_lost_driver(event, application)
    ]
    return replace(
        found,
        pods=pods,
        events=events,
        operators=find_operators(connection),
        quotas=connection.quotas(),
        workloads=[each for each in connection.custom(WORKLOADS) or [] if owned(each, known)],
    )


def is_of_lost_driver(event: Plain, application: Plain | None) -> bool:
    """Whether an event is of a driver that this application had."""
    name, made = dig(application, "metadata", "name"), dig(application, "metadata", "creationTimestamp")
    return bool(
        event["involvedObject"].get("name") == f"{name}-driver" and made <= (event.get("firstTimestamp") or made)
    )


def find_operators(connection: Connection) -> list[Operator] | None:
    """The Spark operators of the cluster; None where one may not ask."""
    try:
        found = connection.custom(DEPLOYMENTS, "app.kubernetes.io/name=spark-operator", everywhere=True)
    except UserError:  # who may use one namespace need not see others
        return None
    return [operator_of(each) for each in found or [] if is_controller(each)]


def is_controller(deployment: Plain) -> bool:
    return str(dig(deployment, "metadata", "labels", COMPONENT, default="controller")) == "controller"


def operator_of(deployment: Plain) -> Operator:
    arguments = dig(deployment, "spec", "template", "spec", "containers", default=[{}])[0].get("args", [])
    said = next((each.partition("=")[2] for each in arguments if each.startswith("--namespaces=")), "")
    ready = dig(deployment, "status", "readyReplicas", default=0) > 0
    return Operator(tuple(name for name in said.split(",") if name), ready)


def owned(workload: Plain, uids: set[Any]) -> bool:
    return any(owner.get("uid") in uids for owner in dig(workload, "metadata", "ownerReferences", default=[]))


def dig(value: Any, *path: str | int, default: Any = None) -> Any:
    """What lies at a path within objects and lists; `default` where there is nothing."""
    for name in path:
        try:
            value = value[name]
        except (KeyError, IndexError, TypeError):
            return default
    return default if value is None else value


def time_of(text: str | None) -> datetime | None:
    """A time as Kubernetes writes it."""
    return datetime.fromisoformat(text) if text else None
