"""A namespace of a cluster, as a kubeconfig or a pod's account reaches it."""

from __future__ import annotations

import json
import logging
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from fruitpipe.config import Environment
from fruitpipe.errors import FruitpipeError, UserError
from fruitpipe.releases.plain import Plain

if TYPE_CHECKING:
    from kubernetes.client import ApiClient, Configuration, CoreV1Api, CustomObjectsApi
    from websocket import WebSocket

PATIENCE = (5, 15)
"""Seconds to connect and to answer."""
MOST_BYTES = 1 << 20
DATA, ERROR = b"\0", b"\1"
"""The channels of a connection that is forwarded."""


class Kind(NamedTuple):
    """A kind of objects that Kubernetes' own client has no types for."""

    group: str
    version: str
    plural: str


DEPLOYMENTS = Kind("apps", "v1", "deployments")


class Connection:
    """The API server, and the namespace that is meant."""

    def __init__(self, context: str | None = None, namespace: str | None = None) -> None:
        """context: of the kubeconfig, or its current one. namespace: or the context's.

        Raises UserError where there is no such context, or neither a kubeconfig nor an account of a pod.
        """
        self.context = context
        self._client, own = from_kubeconfig(context) or from_account()
        self.namespace = namespace or own

    @cached_property
    def core(self) -> CoreV1Api:
        from kubernetes import client

        return client.CoreV1Api(self._client)

    @cached_property
    def _custom(self) -> CustomObjectsApi:
        from kubernetes import client

        return client.CustomObjectsApi(self._client)

    @cached_property
    def _groups(self) -> set[str]:
        """Groups of kinds that the cluster knows, with their versions.

        Of a group that it does not know, it says so only to those who may do anything; it forbids it to all others.
        """
        from kubernetes import client

        with self._asking("list kinds"):
            listed = client.ApisApi(self._client).get_api_versions(_request_timeout=PATIENCE)
        return {version.group_version for group in listed.groups for version in group.versions}

    def pods(self, selector: str = "", name: str | None = None) -> list[Plain]:
        """Pods with these labels, or the one of them of this name."""
        fields = f"metadata.name={name}" if name else ""
        return self._core("list pods", "list_namespaced_pod", label_selector=selector, field_selector=fields)

    def events(self) -> list[Plain]:
        """Events of the namespace that Kubernetes still has, oldest first."""
        found = self._core("list events", "list_namespaced_event")
        return sorted(found, key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "")

    def quotas(self) -> list[Plain]:
        return self._core("list resourcequotas", "list_namespaced_resource_quota")

    def config_maps(self, selector: str, everywhere: bool = False) -> list[Plain]:
        """ConfigMaps with these labels. everywhere: of all namespaces."""
        method = "list_config_map_for_all_namespaces" if everywhere else "list_namespaced_config_map"
        return self._core("list configmaps", method, everywhere, label_selector=selector)

    def deployments(self, selector: str) -> list[Plain]:
        """Deployments of all namespaces with these labels."""
        return self.custom(DEPLOYMENTS, selector, everywhere=True) or []

    def custom(self, kind: Kind, selector: str = "", everywhere: bool = False) -> list[Plain] | None:
        """Objects of a kind; None where the cluster does not know it. everywhere: of all namespaces."""
        if f"{kind.group}/{kind.version}" not in self._groups:
            return None
        api, group = self._custom, (kind.group, kind.version)
        method = api.list_cluster_custom_object if everywhere else api.list_namespaced_custom_object
        place = group if everywhere else (*group, self.namespace)
        with self._asking(f"list {kind.plural}"):
            listed = self._absent(method, *place, kind.plural, label_selector=selector)
        return None if listed is None else list(listed["items"])

    def ask(self, pod: str, port: int, request: bytes) -> bytes:
        """What a port of a pod answers to a request, until it closes the connection; at most MOST_BYTES.

        By way of its node, as NetworkPolicies let nobody else in. Raises OSError where nothing answers.
        """
        from kubernetes.stream.ws_client import create_websocket
        from websocket import WebSocketException

        settings = self._client.configuration
        server = settings.host.replace("http", "ws", 1)
        url = f"{server}/api/v1/namespaces/{self.namespace}/pods/{pod}/portforward?ports={port}"
        headers = {"sec-websocket-protocol": "v4.channel.k8s.io"}
        if token := settings.auth_settings().get("BearerToken"):
            headers["authorization"] = token["value"]
        try:
            socket = create_websocket(settings, url, headers)
            try:
                socket.settimeout(PATIENCE[0])
                socket.send_binary(DATA + request)
                return b"".join(received(socket))
            finally:
                socket.shutdown()  # its `close` leaves one open that the other side has closed
        except WebSocketException as error:
            raise ConnectionError(str(error)) from error

    def log(self, pod: str, container: str, follow: bool = False, last: int | None = None) -> Iterator[bytes]:
        """Lines of a container's log, each after its time; none before it starts.

        last: how many; all where it is None.

        Raises UserError where one may not read it, FruitpipeError where the cluster is gone, or goes meanwhile.
        """
        from kubernetes.client.exceptions import ApiException

        read: Any = self.core.read_namespaced_pod_log
        options: dict[str, Any] = {"follow": follow, "timestamps": True, "_preload_content": False}
        options |= {"tail_lines": last} if last else {}
        options |= {} if follow else {"_request_timeout": PATIENCE}
        with self._asking("read logs"):
            try:
                answer = read(pod, self.namespace, container=container, **options)
            except ApiException as error:
                if error.status in {400, 404}:  # it does not run yet, or its pod is gone
                    return
                raise
            with closing(answer):
                rest = b""
                for chunk in answer.stream(1 << 16, decode_content=False):
                    *lines, rest = (rest + chunk).split(b"\n")
                    yield from lines
                if rest:
                    yield rest

    def delete(self, kind: Kind, name: str) -> None:
        """Delete an object, if it is there."""
        place = (kind.group, kind.version, self.namespace, kind.plural)
        with self._asking(f"delete {kind.plural}"):
            self._absent(self._custom.delete_namespaced_custom_object, *place, name)

    def _core(self, asked: str, method: str, everywhere: bool = False, **options: Any) -> list[Plain]:
        place = () if everywhere else (self.namespace,)
        with self._asking(asked):
            answer = getattr(self.core, method)(*place, _preload_content=False, _request_timeout=PATIENCE, **options)
            return list(json.loads(answer.data)["items"])

    @staticmethod
    def _absent(method: Any, *arguments: Any, **options: Any) -> Any:
        """What a method returns; None where there is nothing of that name."""
        from kubernetes.client.exceptions import ApiException

        try:
            return method(*arguments, _request_timeout=PATIENCE, **options)
        except ApiException as error:
            if error.status == 404:
                return None
            raise

    @contextmanager
    def _asking(self, asked: str) -> Iterator[None]:
        """Raises UserError where the cluster refuses what is asked meanwhile, FruitpipeError where it is gone."""
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        of = f" of context {self.context}" if self.context else ""
        try:
            yield
        except ApiException as error:
            if error.status == 401:
                raise UserError(f"the cluster{of} does not know you: log in again, as its provider says.") from error
            if error.status == 403:
                raise UserError(
                    f"you may not {asked} in namespace {self.namespace}: ask for the right, or give --namespace."
                ) from error
            raise FruitpipeError(f"the cluster{of} could not {asked}: {error.reason or error.status}.") from error
        except (HTTPError, OSError) as error:
            reason = getattr(error, "reason", None) or error
            raise FruitpipeError(
                f"the cluster{of} does not answer ({' '.join(str(reason).split())}): is it up, is --context right?"
            ) from error


def received(socket: WebSocket) -> Iterator[bytes]:
    """What comes through a connection that is forwarded. Each channel begins with the port, two bytes.

    Raises ConnectionError where the pod does not listen.
    """
    from websocket import ABNF

    begun, length = set(), 0
    while length < MOST_BYTES:
        opcode, frame = socket.recv_data()
        if opcode == ABNF.OPCODE_CLOSE:
            return
        channel, content = frame[:1], frame[1:]
        if channel not in begun:
            begun.add(channel)
        elif channel == DATA:
            length += len(content)
            yield content
        elif channel == ERROR:
            raise ConnectionError(content.decode(errors="replace"))


def from_kubeconfig(context: str | None) -> tuple[ApiClient, str] | None:
    """A client and its namespace by the kubeconfig; None where there is none.

    Raises UserError where it cannot be used, or has no such context.
    """
    from kubernetes import client, config
    from kubernetes.config.config_exception import ConfigException

    configuration = kept_alive(client.Configuration())
    try:
        contexts, current = config.list_kube_config_contexts()
        names = {each["name"]: each for each in contexts}
        if context is not None and context not in names:
            raise UserError(f"no context {context} in the kubeconfig: there are {', '.join(names) or 'none'}.")
        with errors_logged() as failed:
            config.load_kube_config(context=context, client_configuration=configuration)
        if failed:
            raise UserError(
                f"the kubeconfig's way to log in fails ({failed[0]}): install what it calls, and log in there."
            )
        chosen = names[context] if context else current
        return trusting(client.ApiClient(configuration)), chosen["context"].get("namespace", "default")
    except (ConfigException, yaml.YAMLError, OSError, TypeError, ValueError) as error:  # the client checks no types
        said = " ".join(str(error).split())
        if "No configuration found" in said:
            return None
        raise UserError(f"the kubeconfig cannot be used ({said}): see whether `kubectl get pods` can.") from error


@contextmanager
def errors_logged() -> Iterator[list[str]]:
    """What is logged as an error meanwhile: so the client tells of a program that it asks for a token, and goes on."""
    said: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: said.append(" ".join(record.getMessage().split()))  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    try:
        yield said
    finally:
        logging.getLogger().removeHandler(handler)


def from_account() -> tuple[ApiClient, str]:
    """A client and its namespace by the account of this pod. Raises UserError where this is none that has one."""
    from kubernetes import client, config

    account = Environment.read().account
    if account is None:
        raise UserError(
            "no cluster is configured: there is no kubeconfig. `kubectl config view` shows what kubectl uses."
        )
    configuration = kept_alive(client.Configuration())
    config.load_incluster_config(client_configuration=configuration)
    return trusting(client.ApiClient(configuration)), (account / "namespace").read_text()


def kept_alive(configuration: Configuration) -> Configuration:
    """The configuration, of connections whose end is noticed by who only listens, as to a log."""
    configuration.keep_alive = True
    return configuration


def trusting(connected: ApiClient) -> ApiClient:
    """The client, trusting its cluster's authority as kubectl does: many lack what Python 3.13 asks for besides."""
    settings = connected.rest_client.pool_manager.connection_pool_kw
    if (authority := settings.get("ca_certs")) and settings.get("cert_reqs") != ssl.CERT_NONE:
        settings["ssl_context"] = trust(Path(authority), settings.get("cert_file"), settings.get("key_file"))
    return connected


def trust(authority: Path, certificate: str | None = None, key: str | None = None) -> ssl.SSLContext:
    """Trust in a cluster's own authority, and the certificate by which it knows its user, if there is one."""
    context = ssl.create_default_context(cafile=authority)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if certificate:
        context.load_cert_chain(certificate, key)
    return context
