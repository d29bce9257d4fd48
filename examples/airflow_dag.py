"""A DAG for Airflow 3 that runs the main job on a cluster every night.

The worker needs fruitpipe (with its extra `helm`), rights to install a release in the namespace, and run.yaml beside
this file. Put in where the image is. A run that failed goes on from what was computed when the task is tried again.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from tempfile import NamedTemporaryFile

from airflow.sdk import dag, task

CONFIG = Path(__file__).with_name("run.yaml")
IMAGE = "registry.example/fruitpipe:0.1.0"


@dag(schedule="0 3 * * *", start_date=datetime(2026, 1, 1, tzinfo=UTC), catchup=False, max_active_runs=1)
def fruits():
    @task(retries=0)
    def run(attempt: str) -> str:
        """Where results are. Each attempt is a run; one that is there already is only waited for."""
        import fruitpipe

        with NamedTemporaryFile("w", suffix=".yaml") as values:
            json.dump({"reprocess": attempt}, values)
            values.flush()
            release = fruitpipe.submit(CONFIG, "fruits", namespace="fruits", image=IMAGE, values=[values.name])
            status = release.wait()
        if status.exit_code:
            raise RuntimeError(f"{status.name} {status.phase}: {status.said}")
        return status.output

    run("{{ ds }} {{ ti.try_number }}")


fruits()
