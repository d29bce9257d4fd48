"""Precedents: published runs whose result a run would only give again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from functools import partial
from importlib.metadata import version
from typing import Any

from fruitpipe.backbones.resolved import ResolvedBackbone
from fruitpipe.config import Config
from fruitpipe.engines.package import TEXT
from fruitpipe.errors import UserError
from fruitpipe.model.model import Model
from fruitpipe.result.manifest import Manifest
from fruitpipe.result.runs import find_manifest, latest_run, run_ids
from fruitpipe.storage import layout
from fruitpipe.storage.file import File
from fruitpipe.storage.side_by_side import side_by_side
from fruitpipe.storage.store import Store

RECENT = 32
"""Runs that are looked at: on object stores, each is a request, and a result may have thousands."""
COMPARED_ITSELF = ("input", "limit", "labels", "lists", "output", "reuse", "preset", "failures")
DECIDES_NOTHING = ("spark", "publish", "track")
REACHES = {"endpoint", "region", "path_style", "allow_http", "ca_file", "requester_pays"}
"""Keys of `s3` that say how to reach buckets; others say how objects are written."""


def config_digest(config: Config) -> str:
    """Of all that decides what a run gives, but for what is compared itself, however it is spelt.

    Which images there are, with their labels, their own digest says; the output is where precedents are looked for, and
    a model to reuse is known by its run. A preset is no more than its keys. Failures are compared by their rate, and
    those to be tried again are work that is left. What runs the tasks decides no bit, nor do the way to a bucket, the
    tables that hold the run, and who is told of it.
    """
    without: dict[str, Any] = dict.fromkeys((*COMPARED_ITSELF, *DECIDES_NOTHING), True) | {"s3": REACHES}
    return hashlib.sha256(config.model_dump_json(exclude=without).encode()).hexdigest()


def precedents(store: Store, config: Config) -> list[Manifest]:
    """Recent published runs of a config, by this version of fruitpipe: the latest first, then the newest.

    Left out are those in which a further stage failed, so that the next run tries it again, and those in which more
    images failed than the config allows.
    """
    ours = (config_digest(config), version("fruitpipe"))
    same = [each for each in recent_manifests(store) if (each.config_digest, each.versions.get("fruitpipe")) == ours]
    return [each for each in same if not each.unfinished and each.counts.are_within(config.failures.max_rate)]


def recent_manifests(store: Store) -> Iterator[Manifest]:
    """Of published runs: the latest first, then the newest; few are held at once, as they may be long."""
    latest = latest_run(store)
    recent = [run_id for run_id in reversed(run_ids(store)[-RECENT:]) if run_id != latest]
    found = side_by_side(partial(readable_manifest, store), [*filter(None, [latest]), *recent])
    return (manifest for _, manifest in found if manifest)


def readable_manifest(store: Store, run_id: str) -> Manifest | None:
    """The manifest of a run; None also where it is damaged, of which `fruitpipe runs` tells."""
    try:
        return find_manifest(store, run_id)
    except UserError:
        return None


def same_as(
    store: Store, backbone: ResolvedBackbone, reused: Model | None, earlier: Iterable[Manifest]
) -> Manifest | None:
    """The first of some precedents of the same images whose result a run would only give again.

    reused: the model that a run would apply; None where it would fit one.
    """
    return next((each for each in earlier if is_same(store, backbone, reused, each)), None)


def is_same(store: Store, backbone: ResolvedBackbone, reused: Model | None, manifest: Manifest) -> bool:
    """Whether a precedent of the same images is of the same features and model, text tower included, and all of its
    files are there. reused: as `same_as` has it.
    """
    if manifest.features_digest != backbone.features:
        return False
    if reused and manifest.model.fitted_by != reused.card.run:  # `latest` was another one's then
        return False
    if not reused and digest_in_model(manifest, TEXT) != (backbone.text and File.at(TEXT, backbone.text).sha256):
        return False
    files = {(layout.run(manifest.run, file.name), file.bytes) for file in manifest.files}
    return files <= set(store.names(layout.run(manifest.run)))


def digest_in_model(manifest: Manifest, name: str) -> str | None:
    """Digest of a file of a run's model; None where it has none of this name."""
    name = layout.within(manifest.run, layout.model(manifest.run, name))
    return next((file.sha256 for file in manifest.files if file.name == name), None)
