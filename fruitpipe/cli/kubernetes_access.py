"""What Kubernetes lets this pod do: all that Spark's driver asks for, and nothing that would be somebody else's."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

from fruitpipe.errors import UserError

NEEDED = {
    "pods": ("create", "delete", "deletecollection", "get", "list", "patch", "watch"),
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


def trust(account: Path) -> ssl.SSLContext:
    """Trust in the cluster's own authority, as Spark's client has it: many lack what Python 3.13 asks for."""
    context = ssl.create_default_context(cafile=account / "ca.crt")
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def reviews(rights: dict[str, tuple[str, ...]], account: Path) -> Iterator[tuple[str, bool]]:
    """Ask the API server for each verb of each resource whether an account has it in its namespace."""
    from kubernetes import client, config
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    config.load_incluster_config()
    api = client.AuthorizationV1Api()
    api.api_client.rest_client.pool_manager.connection_pool_kw["ssl_context"] = trust(account)
    namespace = (account / "namespace").read_text()
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
            try:
                answer = api.create_self_subject_access_review(review, _request_timeout=10)
            except (ApiException, HTTPError) as error:
                reason = getattr(error, "reason", None) or error
                raise UserError(f"the API server does not answer ({reason}): do NetworkPolicies let it?") from error
            yield f"{verb} {name}", answer.status is not None and answer.status.allowed
