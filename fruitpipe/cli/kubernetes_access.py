"""What Kubernetes lets this pod do: all that Spark's driver asks for, and nothing that would be somebody else's.

Rights on pods are for all of a namespace. Whom that concerns, and whether a policy keeps them out, is asked too.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fruitpipe.errors import UserError
from fruitpipe.releases.connection import from_account
from fruitpipe.releases.observation import RELEASE

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

NEEDED = {
    "pods": ("create", "delete", "deletecollection", "get", "list", "patch", "watch"),
    "pods/log": ("get",),
    "configmaps": ("create", "delete", "deletecollection", "get", "list"),
}
"""Verbs by resource, in the pod's own namespace; those that the chart's Role grants."""
FOREIGN = {
    "secrets": ("get", "list"),
    "pods/exec": ("create",),
    "serviceaccounts/token": ("create",),
    "rolebindings.rbac.authorization.k8s.io": ("create",),
}
"""Verbs by resource that would make the account more than it is."""


def confirm(account: Path) -> str:
    """Confirm that a pod's account has the rights that a driver needs, and no others that matter.

    `account` is the folder in which Kubernetes puts it.

    Raises UserError, which names each right that is missing or too many.
    """
    missing = [each for each, allowed in reviews(NEEDED, account) if not allowed]
    foreign = [each for each, allowed in reviews(FOREIGN, account) if allowed]
    if missing:
        raise UserError(f"this pod's account may not {', '.join(missing)}: give its Role these rights.")
    if foreign:
        raise UserError(f"this pod's account may {', '.join(foreign)}, which no run needs: take these rights away.")
    return "pods and configmaps, and neither secrets nor the rights of others"


def foreign_pods(account: Path) -> str:
    """Say who else has pods in this pod's namespace; they are out of reach of its account.

    Raises UserError where they are not.
    """
    from kubernetes import client
    from kubernetes.client.exceptions import ApiException

    namespace = (account / "namespace").read_text()
    with connection() as connected:
        api = client.CoreV1Api(connected)
        listed = connected.sanitize_for_serialization(api.list_namespaced_pod(namespace, _request_timeout=10))
        releases = {
            pod["metadata"]["name"]: pod["metadata"].get("labels", {}).get(RELEASE)
            for pod in listed["items"]
            if pod["status"]["phase"] in {"Pending", "Running"}
        }
        own = releases.pop(socket.gethostname(), None)
        others = [name for name, release in releases.items() if release is None or release != own]
        if not others:
            return f"no pods of others in namespace {namespace}"
        found = f"{', '.join(others[:3])}{', …' if len(others) > 3 else ''}: pods of others in namespace {namespace}"
        try:
            api.delete_namespaced_pod(others[0], namespace, dry_run="All", _request_timeout=10)
        except ApiException as error:
            if error.status in {403, 404}:  # forbidden, or gone meanwhile
                return f"{found}, out of reach of this pod's account"
            raise
    raise UserError(
        f"{found}, which this pod's account could delete, as it could run pods with their Secrets: give the release a "
        "namespace of its own, or set the chart's admissionPolicy."
    )


@contextmanager
def connection() -> Iterator[ApiClient]:
    """A client of the API server. Raises UserError where that does not answer, or refuses what it is asked."""
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    connected, _ = from_account()
    with connected:
        try:
            yield connected
        except (ApiException, HTTPError) as error:
            reason = getattr(error, "reason", None) or error
            if status := getattr(error, "status", None):  # it has none where TLS fails
                raise UserError(
                    f"the API server answers this pod's account with {status} ({reason}): `kubectl auth can-i --list` "
                    "as that account shows what it may, or why nothing."
                ) from error
            raise UserError(f"the API server does not answer ({reason}): do NetworkPolicies let it?") from error


def reviews(rights: dict[str, tuple[str, ...]], account: Path) -> Iterator[tuple[str, bool]]:
    """Ask the API server for each verb of each resource whether an account has it in its namespace."""
    from kubernetes import client

    namespace = (account / "namespace").read_text()
    with connection() as connected:
        api = client.AuthorizationV1Api(connected)
        for name, verbs in rights.items():
            resource, _, group = name.partition(".")
            resource, _, subresource = resource.partition("/")
            for verb in verbs:
                asked = client.V1ResourceAttributes(
                    namespace=namespace, verb=verb, group=group, resource=resource, subresource=subresource
                )
                review = client.V1SelfSubjectAccessReview(
                    spec=client.V1SelfSubjectAccessReviewSpec(resource_attributes=asked)
                )
                answer = api.create_self_subject_access_review(review, _request_timeout=10)
                yield f"{verb} {name}", answer.status is not None and answer.status.allowed
