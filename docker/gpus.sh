#!/usr/bin/env bash
# The GPUs of an executor, as Spark's discovery of resources asks for them: their numbers, in JSON.
set -euo pipefail
numbers=$(nvidia-smi --query-gpu=index --format=csv,noheader | sed 's/.*/"&"/' | paste --serial --delimiters=,)
echo "{\"name\": \"gpu\", \"addresses\": [$numbers]}"
