"""The two Spark operators: all that differs between them for whoever looks at a release."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, NamedTuple

from fruitpipe.releases.connection import Connection, Kind
from fruitpipe.releases.plain import Plain, dig, time_of

NOT_TAKEN_UP = "not taken up"
STARTING = "starting"
RUNNING = "running"
DONE = "done"
FAILED = "failed"
TO_BE_TRIED_AGAIN = "failed, to be tried again"
ABOUT_TO_RUN_AGAIN = "about to run again"
SUSPENDED = "suspended"
"""Phases of an application, in words that do for both operators."""


class Executor(NamedTuple):
    """What an application asks for."""

    instances: int
    """at least, where their number follows the work"""
    memory: tuple[str, ...]
    """its parts, as Spark writes them"""
    cores: str


@dataclass(frozen=True)
class Installed:
    """An operator as the cluster has it."""

    namespaces: tuple[str, ...]
    """that it watches; none for all"""
    ready: bool
    by_label: bool = False
    """whether it watches further ones, by labels that one may not see"""

    def watches(self, namespace: str) -> bool:
        """Whether it does, or may."""
        return not self.namespaces or namespace in self.namespaces or self.by_label


class Operator(ABC):
    """A Spark operator, and how its applications are read."""

    kind: Kind
    name: str
    """as messages call it"""
    application_label: str
    """of pods, with the name of the application that they are of"""
    driver: str
    """pattern of what follows the application's name in its drivers' names"""
    selector: str
    """of its Deployments and their pods"""
    namespaces: str
    """the value of its own chart that says which namespaces it watches"""

    @abstractmethod
    def phase(self, application: Plain | None) -> str: ...

    @abstractmethod
    def submitted(self, application: Plain | None) -> datetime | None:
        """When the run that goes on, or the last one, was given to Spark."""

    @abstractmethod
    def message(self, application: Plain | None) -> str:
        """What it says of the run that goes on, or of the last one; empty where it says nothing."""

    @abstractmethod
    def executor(self, application: Plain | None) -> Executor: ...

    @abstractmethod
    def remembered(self, application: Plain | None) -> Plain | None:
        """The last driver as the operator saw it, where its pod may be gone."""

    @abstractmethod
    def installed(self, connection: Connection) -> Iterator[Installed]:
        """Those that the cluster has. Raises UserError where one may not ask."""


class Kubeflow(Operator):
    kind = Kind("sparkoperator.k8s.io", "v1beta2", "sparkapplications")
    name = "the Spark operator"
    application_label = "sparkoperator.k8s.io/app-name"
    driver = "-driver"
    selector = "app.kubernetes.io/name=spark-operator"
    namespaces = "spark.jobNamespaces"

    PHASES: ClassVar = {
        "": NOT_TAKEN_UP,
        "NEW": NOT_TAKEN_UP,
        "SUBMITTED": STARTING,
        "RUNNING": RUNNING,
        "SUCCEEDING": DONE,
        "COMPLETED": DONE,
        "FAILING": TO_BE_TRIED_AGAIN,
        "FAILED": FAILED,
        "SUBMISSION_FAILED": TO_BE_TRIED_AGAIN,
        "PENDING_SUBMISSION": STARTING,
        "PENDING_RERUN": ABOUT_TO_RUN_AGAIN,
        "INVALIDATING": ABOUT_TO_RUN_AGAIN,
        "SUSPENDING": SUSPENDED,
        "SUSPENDED": SUSPENDED,
        "RESUMING": STARTING,
        "UNKNOWN": "unknown to the operator",
    }

    def phase(self, application: Plain | None) -> str:
        state = str(dig(application, "status", "applicationState", "state", default=""))
        return self.PHASES.get(state, state.lower())

    def submitted(self, application: Plain | None) -> datetime | None:
        return time_of(dig(application, "status", "lastSubmissionAttemptTime"))

    def message(self, application: Plain | None) -> str:
        return str(dig(application, "status", "applicationState", "errorMessage", default=""))

    def executor(self, application: Plain | None) -> Executor:
        spec = dig(application, "spec", default={})
        one, allocation = spec.get("executor", {}), spec.get("dynamicAllocation", {})
        instances = allocation.get("minExecutors") if allocation.get("enabled") else one.get("instances")
        memory = tuple(str(one.get(part, "0")) for part in ("memory", "memoryOverhead"))
        return Executor(int(instances or 0), memory, str(one.get("coreRequest") or one.get("cores", 1)))

    def remembered(self, application: Plain | None) -> Plain | None:
        return None

    def installed(self, connection: Connection) -> Iterator[Installed]:
        for each in connection.deployments(self.selector):
            if dig(each, "metadata", "labels", "app.kubernetes.io/component", default="controller") != "controller":
                continue
            arguments = dig(each, "spec", "template", "spec", "containers", 0, "args", default=[])
            said = {name: value for name, _, value in (str(word).partition("=") for word in arguments)}
            # Its chart may write quotes around them, which the operator takes off.
            names = tuple(name.strip('"') for name in said.get("--namespaces", "").split(","))
            selector = said.get("--namespace-selector", "").strip('"')
            yield Installed(() if "" in names else names, is_ready(each), bool(selector))


class Apache(Operator):
    """That of Apache Spark itself. It keeps what an application went through, and the last driver's status in it."""

    kind = Kind("spark.apache.org", "v1", "sparkapplications")
    name = "Apache's Spark operator"
    application_label = "spark.operator/spark-app-name"
    driver = r"-\d+-driver"
    selector = "spark-role=operator"
    namespaces = "workloadResources.namespaces.data"

    PHASES: ClassVar = {
        "": NOT_TAKEN_UP,
        "Submitted": STARTING,
        "DriverRequested": STARTING,
        "DriverStarted": RUNNING,
        "DriverReady": RUNNING,
        "InitializedBelowThresholdExecutors": RUNNING,
        "RunningHealthy": RUNNING,
        "RunningWithPartialCapacity": RUNNING,
        "RunningWithBelowThresholdExecutors": RUNNING,
        "Succeeded": DONE,
        "Failed": FAILED,
        "SchedulingFailure": FAILED,
        "DriverEvicted": FAILED,
        "DriverStartTimedOut": FAILED,
        "DriverReadyTimedOut": FAILED,
        "ExecutorsStartTimedOut": FAILED,
    }
    OVER: ClassVar = {"TerminatedWithoutReleaseResources", "ResourceReleased"}
    """States after the one that says how it ended."""
    BEGUN: ClassVar = {"Submitted", "ScheduledToRestart"}
    """States with which a try begins."""

    def phase(self, application: Plain | None) -> str:
        state = summary(self._telling(application))
        phase = self.PHASES.get(state, state)
        policy = dig(application, "spec", "applicationTolerations", "restartConfig", "restartPolicy", default="Never")
        over = summary(dig(application, "status", "currentState")) in self.OVER
        return TO_BE_TRIED_AGAIN if phase == FAILED and policy != "Never" and not over else phase

    def submitted(self, application: Plain | None) -> datetime | None:
        begun = [each for each in states(dig(application, "status")) if summary(each) in self.BEGUN]
        return time_of(begun[-1]["lastTransitionTime"]) if begun else None

    def message(self, application: Plain | None) -> str:
        """Without the traces of Java's stack."""
        said = str(self._telling(application).get("message", ""))
        return "\n".join(line for line in said.splitlines() if not re.match(r"\s+(at |\.\.\. )", line))

    def executor(self, application: Plain | None) -> Executor:
        conf = dig(application, "spec", "sparkConf", default={})
        dynamic = conf.get("spark.dynamicAllocation.enabled") == "true"
        instances = conf.get("spark.dynamicAllocation.minExecutors" if dynamic else "spark.executor.instances")
        memory = tuple(str(conf.get(f"spark.executor.{part}", "0")) for part in ("memory", "memoryOverhead"))
        cores = conf.get("spark.kubernetes.executor.request.cores") or conf.get("spark.executor.cores", "1")
        return Executor(int(instances or 0), memory, str(cores))

    def remembered(self, application: Plain | None) -> Plain | None:
        status = self._telling(application).get("lastObservedDriverStatus")
        spec = dig(application, "spec", "driverSpec", "podTemplateSpec", "spec")
        return {"spec": spec, "status": status} if status else None

    def installed(self, connection: Connection) -> Iterator[Installed]:
        settings = {
            each["metadata"]["namespace"]: dig(each, "data", "spark-operator.properties", default="")
            for each in connection.config_maps(f"app.kubernetes.io/component=operator-config,{self.selector}", True)
        }
        for each in connection.deployments(self.selector):
            yield Installed(watched(settings.get(each["metadata"]["namespace"], "")), is_ready(each))

    def _telling(self, application: Plain | None) -> Plain:
        """The state that says how the run is that goes on, or how the last one ended."""
        status = dig(application, "status")
        tries = [*states(dig(status, "previousAttemptSummary")), *states(status)]
        told = [each for each in tries if summary(each) not in {*self.OVER, "ScheduledToRestart"}]
        return told[-1] if told else {}


def summary(state: Plain | None) -> str:
    """The word for a state."""
    return str(dig(state, "currentStateSummary", default=""))


def states(attempt: Plain | None) -> list[Plain]:
    """The states that a try went through."""
    history = dig(attempt, "stateTransitionHistory", default={})
    return [history[number] for number in sorted(history, key=int)]


def watched(properties: str) -> tuple[str, ...]:
    """Namespaces that the settings of Apache's operator name, of which the last counts; none for all."""
    said = re.findall(r"^\s*spark\.kubernetes\.operator\.watchedNamespaces\s*=(.*)$", properties, re.MULTILINE)
    names = tuple(name.strip() for name in (said[-1] if said else "default").split(","))
    return () if "*" in names else names


def is_ready(deployment: Plain) -> bool:
    return bool(dig(deployment, "status", "readyReplicas", default=0) > 0)


KUBEFLOW, APACHE = Kubeflow(), Apache()
OPERATORS: tuple[Operator, ...] = (KUBEFLOW, APACHE)


def operator_of(application: Plain | None) -> Operator:
    """The one whose object this is."""
    group = dig(application, "apiVersion", default="").partition("/")[0]
    return next((each for each in OPERATORS if each.kind.group == group), KUBEFLOW)
