"""Campaigns of trouble against fruitpipe, each of many rounds, with a table of what happened at the end.

A round is drawn by the seed and its number. What a round finds is printed with both; the campaign goes on, and ends
with exit code 1. docs/reliability.md says what each campaign does.

    python benchmarks/chaos.py crash IMAGES --rounds 200
    python benchmarks/chaos.py lossy
"""

from __future__ import annotations

import argparse
import atexit
import os
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

from fruitpipe.config import S3Config

sys.path.append(str(Path(__file__).parents[1] / "tests"))
sys.path.append(str(Path(__file__).parents[1] / "examples"))
import command
from campaigns import concurrency, crash, lies, lossy, soak
from s3 import environment, upload
from seaweed import BUCKET, Server

Round = Callable[[str], Counter[str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("campaign", choices=[*CAMPAIGNS, "all"])
    parser.add_argument("images", type=Path, nargs="?", help="folder of at least 400 images, searched recursively")
    parser.add_argument("--rounds", type=int, default=20, help="on disk and on S3 each [%(default)s]")
    parser.add_argument("--seed", default="1", help="[%(default)s]")
    parser.add_argument("--outage", type=float, default=60, help="seconds that the store answers 503 [%(default)s]")
    parser.add_argument("--runs", type=int, default=12, help="of the soak, in one process [%(default)s]")
    parser.add_argument("--increments", type=int, default=50, help="of the soak, of one result [%(default)s]")
    parser.add_argument("--worlds", type=int, default=10, help="rounds of the lossy world [%(default)s]")
    parser.add_argument("--count", type=int, default=200_000, help="images of the lossy world [%(default)s]")
    options = parser.parse_args()
    if options.images is None and options.campaign in {"crash", "soak", "all"}:
        parser.error(f"{options.campaign} needs IMAGES")
    failed = 0
    atexit.register(command.at_end.close)
    for name in CAMPAIGNS if options.campaign == "all" else [options.campaign]:
        with ExitStack() as stack:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fruitpipe-chaos-")))
            failed += CAMPAIGNS[name](options, scratch, stack)
    sys.exit(1 if failed else 0)


def crashes(options: argparse.Namespace, scratch: Path, stack: ExitStack) -> int:
    images = crash.images_of(options.images, scratch / "images")
    disk, victims = scratch / "disk", crash.ON_DISK
    if os.geteuid():
        disk.mkdir()
        victims = tuple(victim for victim in victims if victim != "full disk")
    else:
        stack.enter_context(crash.small_disk(disk))
    campaign = crash.Campaign(crash.Place(str(images), str(disk), scratch / "on disk", victims))
    failed = rounds("crash, disk", options, campaign.play, options.rounds)
    server = stack.enter_context(serving(scratch))
    upload(server.client(server.identities["admin"]), images, "images")
    root = f"s3://{BUCKET}"
    place = crash.Place(f"{root}/images", root, scratch / "on S3", crash.ON_S3, server)
    return failed + rounds("crash, S3", options, crash.Campaign(place).play, options.rounds)


def interleavings(options: argparse.Namespace, scratch: Path, stack: ExitStack) -> int:
    stack.enter_context(concurrency.in_steps())
    template = concurrency.Template(scratch / "template")
    play: Round = lambda seed: concurrency.play(template, f"{scratch}/{seed}", seed)  # noqa: E731
    failed = rounds("concurrency, disk", options, play, options.rounds)
    server = stack.enter_context(serving(scratch))
    s3 = S3Config(endpoint=server.endpoint, allow_http=True)
    play = lambda seed: concurrency.play(template, f"s3://{BUCKET}/{seed}", seed, s3)  # noqa: E731
    return failed + rounds("concurrency, S3", options, play, options.rounds)


def store(options: argparse.Namespace, scratch: Path, stack: ExitStack) -> int:
    stack.enter_context(concurrency.in_steps())
    template, server = concurrency.Template(scratch / "template"), stack.enter_context(serving(scratch))
    campaign, failed = lies.Campaign(template, server), 0
    for name, lie in lies.lies(options.outage).items():
        try:
            print(f"store: {name}: {campaign.play(name, lie)}", flush=True)
        except Exception as error:  # noqa: BLE001 - told, and the campaign goes on
            failed += 1
            print(f"store: {name}: FAILED: {error!r}", flush=True)
    return failed


def soaked(options: argparse.Namespace, scratch: Path, stack: ExitStack) -> int:
    images, failed = crash.images_of(options.images, scratch / "images"), 0
    # Where nobody else leaves anything.
    stack.enter_context(patch.dict(os.environ, TMPDIR=str(scratch)))
    stack.enter_context(patch.object(tempfile, "tempdir", str(scratch)))
    for kind, count in (("runs", options.runs), ("increments", options.increments)):
        uses = []
        try:
            for use in getattr(soak, kind)(images, scratch / kind, count):
                uses.append(use)
                print(f"soak, {kind} {len(uses)}: {use}", flush=True)
            soak.require_flat(uses)
        except Exception as error:  # noqa: BLE001 - told, and the campaign goes on
            failed += 1
            print(f"soak, {kind}: FAILED: {error!r}", flush=True)
    return failed


def lost(options: argparse.Namespace, scratch: Path, stack: ExitStack) -> int:
    server = stack.enter_context(serving(scratch))
    campaign = lossy.Campaign(server, scratch / "lossy", options.count, 128, lossy.Losses())
    return rounds("lossy", options, campaign.play, options.worlds)


CAMPAIGNS: dict[str, Callable[[argparse.Namespace, Path, ExitStack], int]] = {
    "crash": crashes,
    "store": store,
    "concurrency": interleavings,
    "soak": soaked,
    "lossy": lost,
}


def rounds(name: str, options: argparse.Namespace, play: Round, count: int) -> int:
    """Play all rounds of a campaign and print what was counted, also where Ctrl-C ends it; return how many failed."""
    told: Counter[str] = Counter()
    played = 0
    try:
        while played < count:
            seed = f"{options.seed}-{played}"
            try:
                told += play(seed)
            except Exception as error:  # noqa: BLE001 - told, and the campaign goes on
                told["FAILED"] += 1
                print(f"{name}, round {seed}: FAILED: {error!r}", flush=True)
                traceback.print_exception(error)
            played += 1
    finally:
        print(f"\n| {name} | {played} rounds |\n|---|---|")
        for what, times in told.most_common():
            print(f"| {what} | {times} |")
        print(flush=True)
    return told["FAILED"]


@contextmanager
def serving(scratch: Path) -> Iterator[Server]:
    """An S3 server, whose administrator's keys are in the environment."""
    (scratch / "server").mkdir()
    with Server(scratch / "server") as server:
        os.environ |= environment(server, server.identities["admin"])
        yield server


if __name__ == "__main__":
    main()
