#!/bin/bash
# Kubernetes runs this before it stops an executor, where the job has spark.decommission.enabled. On the first SIGTERM the
# executor takes no more tasks, finishes those it has and ends by itself; the pod's grace period is the limit.
set -euo pipefail
process=$(grep -lszx '.*[.]KubernetesExecutorBackend' /proc/[0-9]*/cmdline | cut -d / -f 3)
kill -TERM "$process"
while kill -0 "$process" 2>/dev/null; do sleep 0.2; done
