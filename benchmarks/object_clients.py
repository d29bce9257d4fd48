"""obstore, which all of fruitpipe's requests go through, against s3fs: CPU of a request of 5 kB, start and memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from seaweed import BUCKET, Server

MEASURE = """
import json, os, sys, time
from pathlib import Path

import fruitpipe.tasks.featurize  # as every worker has

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

endpoint, bucket, count = sys.argv[1], sys.argv[2], 500
data, memory, start = os.urandom(5000), resident(), time.process_time()
{client}
put("first")
facts = {{"start": time.process_time() - start, "memory": resident() - memory}}
for name, request in (("put", put), ("get", get)):
    start = time.process_time()
    for number in range(count):
        request(f"{{name}}-{{number}}" if request is put else "first")
    facts[name] = (time.process_time() - start) / count
print(json.dumps(facts))
"""
CLIENTS = {
    "obstore": """
from fruitpipe.config import S3Config
from fruitpipe.objects import open_bucket
store = open_bucket(f"s3://{bucket}", S3Config(endpoint=endpoint, allow_http=True))
put, get = (lambda key: store.put(key, data)), store.get
""",
    "s3fs": """
import s3fs
files = s3fs.S3FileSystem(client_kwargs={"endpoint_url": endpoint})
put, get = (lambda key: files.pipe_file(f"{bucket}/{key}", data)), (lambda key: files.cat_file(f"{bucket}/{key}"))
""",
}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder)) as server:
        admin = server.identities["admin"]
        keys = {"AWS_ACCESS_KEY_ID": admin.access_key, "AWS_SECRET_ACCESS_KEY": admin.secret_key}
        print(f"{'':<10}{'put':>9}{'get':>9}{'start':>9}{'memory':>9}")
        for name, client in CLIENTS.items():
            command = [sys.executable, "-c", MEASURE.format(client=client), server.endpoint, BUCKET]
            done = subprocess.run(command, env=os.environ | keys, check=True, capture_output=True, text=True)
            facts = json.loads(done.stdout)
            requests = "".join(f"{facts[each] * 1e3:>6.2f} ms" for each in ("put", "get"))
            print(f"{name:<10}{requests}{facts['start']:>7.2f} s{facts['memory'] / 1e6:>6.0f} MB")


if __name__ == "__main__":
    main()
