"""Events of a run for lineage: which images its vectors come from. By OpenLineage's own client, an extra:
fruitpipe[openlineage]."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from types import MappingProxyType
from typing import Any

from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, RunEvent, RunState
from openlineage.client.event_v2 import Run as LineageRun
from openlineage.client.facet_v2 import (
    dataset_version_dataset,
    error_message_run,
    input_statistics_input_dataset,
    job_type_job,
    output_statistics_output_dataset,
    processing_engine_run,
    schema_dataset,
    storage_dataset,
)
from openlineage.client.naming.dataset import ABFSS, GCS, S3, DatasetNaming, LocalFileSystem
from openlineage.client.transport.file import FileConfig, FileTransport
from openlineage.client.transport.http import HttpConfig, HttpTransport
from openlineage.client.transport.transport import Transport
from openlineage.client.uuid import generate_static_uuid

from fruitpipe.config import Environment, absolute_path, is_remote
from fruitpipe.redaction import without_secrets
from fruitpipe.result.runs import Run
from fruitpipe.tracking.tracker import Begun, Unfinished

PRODUCER = f"https://pypi.org/project/fruitpipe/{version('fruitpipe')}"
NAMESPACE = "fruitpipe"
"""Of jobs: one for each output."""
FIELD = schema_dataset.SchemaDatasetFacetFields
SCHEMA = schema_dataset.SchemaDatasetFacet(
    [FIELD("path", "string"), FIELD("label", "string"), FIELD("vector", "array", fields=[FIELD("_element", "float")])],
    producer=PRODUCER,
)


class OpenLineage:
    """A server, or a file to which events are added, a line each."""

    def __init__(self, place: str) -> None:
        self.name = f"OpenLineage at {place}"
        self._place = place

    @cached_property
    def _transport(self) -> Transport:
        return transport_to(self._place)

    def began(self, begun: Begun) -> None:
        self._emit(begun, RunState.START)

    def published(self, begun: Begun, run: Run) -> None:
        self._emit(begun, RunState.COMPLETE, run)

    def gave_up(self, begun: Begun, status: Unfinished, reason: str) -> None:
        said = error_message_run.ErrorMessageRunFacet(without_secrets(reason), "PYTHON", producer=PRODUCER)
        state = RunState.FAIL if status == "failed" else RunState.ABORT
        self._emit(begun, state, facets={"errorMessage": said} if status == "failed" else {})

    def _emit(
        self, begun: Begun, state: RunState, run: Run | None = None, facets: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        engine = processing_engine_run.ProcessingEngineRunFacet(version("fruitpipe"), "fruitpipe", producer=PRODUCER)
        output = output_of(begun, run)
        kind = job_type_job.JobTypeJobFacet("BATCH", "FRUITPIPE", "RUN", producer=PRODUCER)
        self._transport.emit(
            RunEvent(
                eventType=state,
                eventTime=datetime.now(UTC).isoformat(),
                run=LineageRun(run_uuid(begun), {"processing_engine": engine, **facets}),
                job=Job(NAMESPACE, f"{output.namespace}/{output.name}", {"jobType": kind}),
                inputs=inputs_of(begun, run),
                outputs=[output],
                producer=PRODUCER,
            )
        )


def transport_to(place: str) -> Transport:
    """Raises whatever the library does where a URL is none."""
    if not place.startswith(("http://", "https://")):
        return FileTransport(FileConfig(str(absolute_path(place)), append=True))
    key = Environment.read().lineage_key
    auth = {"type": "api_key", "apiKey": key} if key else {}
    return HttpTransport(HttpConfig.from_dict({"url": place, "auth": auth, "retry": {"total": 2}}))


def run_uuid(begun: Begun) -> str:
    """The same for all events of a run."""
    return str(generate_static_uuid(begun.started, begun.id.encode()))


def inputs_of(begun: Begun, run: Run | None) -> list[InputDataset]:
    """The inputs, and where there is but one, how many images it had."""
    names = [naming_of(place) for place in begun.config.inputs]
    facets: dict[str, Any] = {}
    if run and len(names) == 1:
        plan = run.manifest.plan
        facets["inputStatistics"] = input_statistics_input_dataset.InputStatisticsInputDatasetFacet(
            rowCount=plan.images, size=plan.bytes, fileCount=plan.images, producer=PRODUCER
        )
    return [InputDataset(name.get_namespace(), without_secrets(name.get_name()), inputFacets=facets) for name in names]


def output_of(begun: Begun, run: Run | None) -> OutputDataset:
    """The output, whose versions are runs."""
    name = naming_of(begun.config.output)
    facets: dict[str, Any] = {"schema": SCHEMA}
    facets["storage"] = storage_dataset.StorageDatasetFacet("fruitpipe", "parquet", producer=PRODUCER)
    statistics: dict[str, Any] = {}
    if run:
        facets["version"] = dataset_version_dataset.DatasetVersionDatasetFacet(run.id, producer=PRODUCER)
        files = run.vector_files
        statistics["outputStatistics"] = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
            run.manifest.counts.ok, sum(file.bytes for file in files), len(files), producer=PRODUCER
        )
    return OutputDataset(name.get_namespace(), without_secrets(name.get_name()), facets=facets, outputFacets=statistics)


def naming_of(place: str) -> DatasetNaming:
    """A place by OpenLineage's rules for names. In Azure, these want the account, too."""
    if not is_remote(place):
        return LocalFileSystem(str(absolute_path(place)))
    scheme, _, rest = place.partition("://")
    bucket, _, key = rest.partition("/")
    path = key.strip("/") or "/"
    match scheme:
        case "s3":
            return S3(bucket, path)
        case "gs":
            return GCS(bucket, path)
    return ABFSS(bucket, Environment.read().azure_account or "unknown", path)
