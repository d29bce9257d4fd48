"""Environment variables that say where things are and what surrounds a process, read in one place.

Those of others, such as PySpark's and MLflow's, and those that are only passed on, are read where that is done.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from fruitpipe.errors import UserError

DEPLOYED = Path("/etc/fruitpipe/revision")
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True)
class Environment:
    """The environment variables that fruitpipe uses, read together."""

    home: Path | None
    """The user's folder; None for users without one, such as a uid that has no name."""
    cache_folder: Path | None
    keras_folder: Path | None
    java_home: Path | None
    submitted: bool
    """Whether spark-submit started this process, and with it Spark."""
    worker: bool
    """Whether this process was started to run tasks, by Spark or by a run."""
    aws_region: str | None
    """Where to look for buckets of a server that does not say where they are."""
    aws_ca_file: str | None
    gcs_emulator: str | None
    """URL of a local stand-in for Google Cloud Storage."""
    azure_account: str | None
    lineage_key: str | None
    """That an OpenLineage server asks for."""
    termination_log: Path | None
    """Where Kubernetes looks for the reason why a container ended."""
    in_pod: bool
    """Whether this is a container of Kubernetes."""
    account: Path | None
    """Where Kubernetes has put this pod's account, if it has."""
    revision: str | None
    """Commit that the container image was built of."""
    deployed: str | None
    """Commit that this pod's release is of, as the chart says."""

    @classmethod
    def read(cls) -> Environment:
        variables = os.environ
        in_pod = "KUBERNETES_SERVICE_HOST" in variables
        return cls(
            home=home_folder(),
            cache_folder=path("FRUITPIPE_CACHE") or path("XDG_CACHE_HOME", "fruitpipe"),
            keras_folder=path("KERAS_HOME"),
            java_home=path("JAVA_HOME"),
            submitted="PYSPARK_GATEWAY_PORT" in variables,
            worker="SPARK_REUSE_WORKER" in variables or "FRUITPIPE_WORKER" in variables,
            aws_region=variables.get("AWS_REGION") or variables.get("AWS_DEFAULT_REGION"),
            aws_ca_file=variables.get("AWS_CA_BUNDLE"),
            gcs_emulator=variables.get("STORAGE_EMULATOR_HOST"),
            azure_account=variables.get("AZURE_STORAGE_ACCOUNT_NAME") or None,
            lineage_key=variables.get("OPENLINEAGE_API_KEY") or None,
            termination_log=path("FRUITPIPE_TERMINATION_LOG"),
            in_pod=in_pod,
            account=ACCOUNT if in_pod and (ACCOUNT / "token").exists() else None,
            revision=variables.get("FRUITPIPE_REVISION") or None,
            deployed=deployed() if in_pod else None,
        )

    @property
    def cache(self) -> Path:
        """Where converted backbones and Spark's class archive are kept. Raises UserError where nobody says."""
        if self.cache_folder:
            return self.cache_folder
        if self.home is None:
            raise UserError(
                f"user {os.getuid()} has no home folder: set FRUITPIPE_CACHE to a folder for converted networks."
            )
        return self.home / ".cache" / "fruitpipe"

    @property
    def keras_home(self) -> Path:
        """Where Keras keeps downloaded weights. Raises UserError as `cache` does."""
        return self.keras_folder or (self.home / ".keras" if self.home else self.cache / "keras")


def path(name: str, *within: str) -> Path | None:
    """The path that a variable names, or one within."""
    return Path(os.environ[name], *within) if os.environ.get(name) else None


def deployed() -> str | None:
    try:
        return DEPLOYED.read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:  # a pod of another chart
        return None


def home_folder() -> Path | None:
    try:
        return Path.home()
    except RuntimeError:
        return None
