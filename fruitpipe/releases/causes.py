"""Why a release does not do what it should, in one line, with the next step: read off what the cluster says of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import NamedTuple

from kubernetes.utils.quantity import parse_quantity

from fruitpipe.releases.observation import Observation, container_of
from fruitpipe.releases.operators import ABOUT_TO_RUN_AGAIN, FAILED, NOT_TAKEN_UP, RUNNING, TO_BE_TRIED_AGAIN
from fruitpipe.releases.plain import Plain, dig

SOON = 10.0
"""Seconds that an operator has to say its first word of an application."""


class Cause(NamedTuple):
    """A cause, and what to do."""

    what: str
    advice: str

    def __str__(self) -> str:
        return f"{self.what}{' ' if self.what.endswith('.') else ': '}{self.advice}"


def cause_of(seen: Observation) -> Cause | None:
    """What keeps a release from its end, or ended it; None where nothing is known to be wrong."""
    return next((found for rule in RULES for found in rule(seen)), None)


def unwatched(seen: Observation) -> Iterator[Cause]:
    """Nobody takes the application up."""
    if seen.phase != NOT_TAKEN_UP or (seen.application is None and seen.schedule is None):
        return
    if dig(seen.schedule, "status", "scheduleState"):
        return
    operator, installed = seen.operator, seen.installed
    if installed == [] and seen.age > SOON / 2:
        yield Cause(f"{operator.name} is not on this cluster", "install it, as docs/kubernetes.md says")
    elif installed and not any(each.watches(seen.namespace) for each in installed):
        watched = ", ".join(sorted({name for each in installed for name in each.namespaces}))
        yield Cause(
            f"{operator.name} does not watch namespace {seen.namespace}, but {watched}",
            f"add it to {operator.namespaces} of the operator's chart, or submit to one of these",
        )
    elif installed and not any(each.ready for each in installed if each.watches(seen.namespace)):
        yield Cause(f"{operator.name} does not run", f"see why: `kubectl get pods -A -l {operator.selector}`")
    elif (
        seen.age > SOON
        and not any(each.watches(seen.namespace) and not each.by_label for each in installed or [])
        and not waits_in_queue(seen)
    ):
        yield Cause(
            f"no operator has taken the application up for {seen.age:.0f} s",
            f"ask whoever runs {operator.name} whether it watches namespace {seen.namespace}",
        )


def queued(seen: Observation) -> Iterator[Cause]:
    """Kueue has not let it in."""
    for workload in seen.workloads:
        for condition in dig(workload, "status", "conditions", default=[]):
            if condition["type"] in {"QuotaReserved", "Admitted"} and condition["status"] == "False":
                yield Cause(
                    f"it waits in queue {dig(workload, 'spec', 'queueName')} ({one_line(condition.get('message'))})",
                    "wait, or ask for more of that queue's quota",
                )
    queue = waits_in_queue(seen)
    if queue and not seen.workloads and seen.age > SOON:
        yield Cause(
            f"it waits in queue {queue}, and Kueue knows nothing of it",
            "check the queue's name, and that Kueue takes SparkApplications",
        )


def waits_in_queue(seen: Observation) -> str | None:
    queue = dig(seen.application, "metadata", "labels", "kueue.x-k8s.io/queue-name")
    return queue if queue and dig(seen.application, "spec", "suspend") else None


def suspended(seen: Observation) -> Iterator[Cause]:
    if seen.suspended and not waits_in_queue(seen):
        follows = "lets its schedule go on" if seen.schedule else "starts it again"
        yield Cause("it is suspended", f"`fruitpipe rerun {seen.name}` {follows}")


def driver_ended(seen: Observation) -> Iterator[Cause]:
    """What the last driver, or the kubelet, said at its end."""
    driver = seen.last_driver
    if driver is None:
        return
    ended = dig(container_of(driver), "state", "terminated", default={})
    reason = dig(driver, "status", "reason", default="")
    if reason == "DeadlineExceeded":
        limit = dig(driver, "spec", "activeDeadlineSeconds")
        yield Cause(
            f"it took more than timeLimitSeconds ({limit})",
            "raise that; the next run goes on from what was computed",
        )
    elif reason in {"Evicted", "NodeLost", "Terminated", "NodeShutdown", "Preempting"} or disrupted(driver):
        said = dig(driver, "status", "message") or disrupted(driver) or reason
        yield Cause(f"the driver lost its node ({one_line(said)})", "run it again: it goes on from what was computed")
    elif ended.get("reason") == "OOMKilled" or (ended.get("exitCode") == 137 and "memory" in ended.get("message", "")):
        yield Cause(
            "the driver was killed for want of memory", "raise driver.memoryOverhead; what was computed is kept"
        )
    elif ended.get("exitCode"):
        said = one_line(ended.get("message")) or f"the driver ended with exit code {ended['exitCode']}"
        yield Cause(said, f"`fruitpipe logs {seen.name}` shows more")


def disrupted(pod: Plain) -> str:
    for condition in dig(pod, "status", "conditions", default=[]):
        if condition["type"] == "DisruptionTarget" and condition["status"] == "True":
            return str(condition.get("message") or condition.get("reason"))
    return ""


def pod_waits(seen: Observation) -> Iterator[Cause]:
    """A pod that cannot start, the driver's first."""
    pods = [each for each in (seen.driver, *seen.executors) if each and not dig(each, "metadata", "deletionTimestamp")]
    for pod in pods:
        role = dig(pod, "metadata", "labels", "app.kubernetes.io/component")
        for condition in dig(pod, "status", "conditions", default=[]):
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                yield unschedulable(str(role), one_line(condition.get("message")))
        container = container_of(pod)
        waiting = dig(container, "state", "waiting", default={})
        said = one_line(waiting.get("message"))
        if waiting.get("reason") in {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"}:
            yield Cause(
                f"the image {container['image']} cannot be pulled ({answer_of_registry(seen, said)})",
                "check image.repository and image.tag, that it was pushed, and image.pullSecrets",
            )
        elif waiting.get("reason") in {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}:
            yield missing(said) or Cause(f"the {role}'s container cannot be made ({said})", "mend that")
        if dig(pod, "status", "phase") == "Pending":
            yield from mounts(seen, pod)


def unschedulable(role: str, said: str) -> Cause:
    """Of words such as `0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint {…}. …`."""
    reasons = (said.partition(": ")[2].partition(". ")[0] or said).rstrip(".")
    listed = reasons.lower().split(", ")
    # Nodes of the control plane are for nobody: what counts is why the others do not take it.
    told = ", ".join(each for each in listed if "node-role.kubernetes.io/control-plane" not in each) or reasons.lower()
    if "taint" in told:
        advice = f"add a toleration to {role}.tolerations, or nodes without the taint"
    elif "volume" in told:
        advice = f"check the volumes of {role}.scratch"
    elif "affinity" in told or "selector" in told:
        advice = f"check {role}.nodeSelector and {role}.affinity against the nodes' labels"
    elif "/gpu" in told:
        advice = f"lower {role}.gpu.amount, or add nodes with free GPUs, whose device plugin offers {role}.gpu.resource"
    elif "insufficient memory" in told or "insufficient cpu" in told:
        advice = f"lower {role}.memory or {role}.cores, or add nodes"
    else:
        advice = "see `kubectl describe pod`"
    return Cause(f"no node takes the {role} ({reasons})", advice)


def answer_of_registry(seen: Observation, said: str) -> str:
    """The registry's own words; while the kubelet only waits, those of its last try."""
    tries = [one_line(event.get("message")) for event in seen.events if event.get("reason") == "Failed"]
    texts = [text for text in (said, *reversed(tries)) if "pull" in text.lower() and "Back-off" not in text]
    text = texts[0] if texts else said
    return (
        text.rpartition("failed to resolve reference ")[2].rpartition(": failed to do request: ")[2][:200] or text[:200]
    )


def missing(said: str) -> Cause | None:
    if found := re.search(r'(secret|configmap) "([^"]+)" not found', said):
        kind, name = found.groups()
        return Cause(f"there is no {kind} {name}", "make it in this namespace, or correct its name in the values")
    if found := re.search(r"couldn't find key (\S+) in (\w+) (\S+)", said):
        key, kind, name = found.groups()
        return Cause(f"{kind} {name} has no key {key}", "add it")
    return None


def mounts(seen: Observation, pod: Plain) -> Iterator[Cause]:
    """Volumes that the kubelet still cannot mount: what it says at once when a driver starts passes by itself."""
    own = [each for each in seen.events if each["involvedObject"].get("uid") == pod["metadata"].get("uid")]
    for event in reversed(own):
        said = one_line(event.get("message"))
        if event.get("reason") == "FailedMount" and (event.get("count") or 1) > 2 and (found := missing(said)):
            yield found


def executors_ended(seen: Observation) -> Iterator[Cause]:
    """Executors that Kubernetes killed."""
    for pod in seen.executors:
        container = container_of(pod)
        for state in (dig(container, "state", default={}), dig(container, "lastState", default={})):
            if dig(state, "terminated", "reason") == "OOMKilled":
                yield Cause("an executor was killed for want of memory", "raise executor.memoryOverhead")


def no_room_for_executors(seen: Observation) -> Iterator[Cause]:
    """A quota that keeps executors out: nobody but the driver is told."""
    if seen.phase != RUNNING or seen.executors or not seen.quotas:
        return
    asked = asked_by_executor(seen)
    for quota in seen.quotas:
        hard, used = dig(quota, "status", "hard", default={}), dig(quota, "status", "used", default={})
        short = [
            f"{name}: {used[name]} of {hard[name]} are used"
            for name in asked.keys() & hard.keys() & used.keys()
            if parse_quantity(used[name]) + asked[name] > parse_quantity(hard[name])
        ]
        if short:
            yield Cause(
                f"quota {quota['metadata']['name']} leaves no room for executors ({', '.join(sorted(short))})",
                "raise it, or lower executor.memory or executor.cores",
            )


def asked_by_executor(seen: Observation) -> dict[str, Decimal]:
    """What an executor takes of a quota, by the quota's names."""
    executor = seen.operator.executor(seen.application)
    # Spark's 1g, 1G and 1gb are Kubernetes' 1Gi.
    sizes = (part.lower().removesuffix("b") for part in executor.memory)
    sizes = (re.sub(r"[kmgtp]$", lambda unit: f"{unit[0].upper()}i", size) for size in sizes)
    memory = sum(map(parse_quantity, sizes), Decimal(0))
    cores, pods = parse_quantity(executor.cores), Decimal(1)
    memories = dict.fromkeys(("memory", "requests.memory", "limits.memory"), memory)
    return {**memories, "cpu": cores, "requests.cpu": cores, "pods": pods, "count/pods": pods}


def not_submitted(seen: Observation) -> Iterator[Cause]:
    """What the API server answered to Spark's submission, or the operator says of a driver that is gone."""
    said = one_line(seen.operator.message(seen.application))
    if seen.phase not in {FAILED, TO_BE_TRIED_AGAIN, ABOUT_TO_RUN_AGAIN} or not said:
        return
    for pattern, what, advice in REFUSED:
        if found := re.search(pattern, said):
            yield Cause(what.format(*found.groups()), advice.format(*found.groups()))
    if found := re.search(r"Message: (.*?)(?:\. Received status|$)", said):
        yield Cause(f"the cluster refused the driver ({found[1][:300]})", "mend that")
    if seen.driver is None:
        shown = f"`kubectl describe {seen.operator.kind.plural}.{seen.operator.kind.group}` shows all of it"
        yield Cause(f"the driver did not start ({said[-300:]})", shown)


REFUSED = (
    (r"driver pod not found", "the driver's pod is gone, with its node or deleted",
     "run it again: it goes on from what was computed"),
    (r"exceeded quota: ([\w.-]+), requested: (.*?), used: (.*?), limited: ([\w.=,-]+\w)",
     "quota {0} leaves no room for the driver (it asks for {1}; {2} are used of {3})", "raise it, or end what uses it"),
    (r'serviceaccount "([\w.-]+)" not found',
     "there is no service account {0}", "make it, or correct serviceAccount.name"),
    (r'no PriorityClass with name ([\w.-]+) was found', "there is no PriorityClass {0}",
     "make it, or correct driver.priorityClassName"),
    (r'violates PodSecurity "([\w:.-]+)": (.*?)(?:\. Received| at |$)',
     "the namespace's Pod Security profile {0} refuses the driver ({1})",
     "leave the pods' security settings as the chart has them"),
    (r'admission webhook "([^"]+)" denied the request: (.*?)(?:\. Received|$)',
     "the cluster's webhook {0} refused the driver ({1})", "ask whoever runs that webhook"),
    (r"ValidatingAdmissionPolicy '([^']+)'.*? denied request: (.*?)(?:\. Received|$)",
     "the cluster's policy {0} refused the driver ({1})", "ask whoever made that policy"),
    (r'(\w+) is forbidden: User "system:serviceaccount:([\w.:-]+)" cannot (\w+)',
     "the operator's account {1} may not {2} {0}", "give it its rights: install its chart again for this namespace"),
)  # fmt: skip
"""Patterns of what operator and API server say, what each means, and what to do."""


def stuck(seen: Observation) -> Iterator[Cause]:
    """It waits, and nothing else is known."""
    if seen.phase == ABOUT_TO_RUN_AGAIN:
        yield Cause(
            "the operator has it run again, once the last run's pods are gone", "wait; what stays of them holds it up"
        )


def one_line(text: str | None) -> str:
    return " ".join((text or "").split())


RULES: tuple[Callable[[Observation], Iterator[Cause]], ...] = (
    unwatched,
    queued,
    suspended,
    pod_waits,
    executors_ended,
    no_room_for_executors,
    driver_ended,
    not_submitted,
    stuck,
)
"""In the order in which they are asked."""
