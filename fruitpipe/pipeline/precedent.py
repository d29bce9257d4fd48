"""Precedents: published runs whose result a run would only give again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import partial
from importlib.metadata import version

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


def digest_of(config: Config) -> str:
    """Of all that decides what a run gives; where else it is registered, and who is told of it, does not."""
    return hashlib.sha256(config.model_dump_json(exclude={"publish", "track"}).encode()).hexdigest()


def precedents(store: Store, config: Config) -> list[Manifest]:
    """Recent published runs of a config, by this version of fruitpipe: the latest first, then the newest.

    Runs in which a further stage failed are left out, so that the next run tries it again.
    """
    digest, ours = digest_of(config), version("fruitpipe")
    found = recent_manifests(store)
    same = [each for each in found if (each.config_digest, each.versions.get("fruitpipe")) == (digest, ours)]
    return [each for each in same if not each.unfinished]


def recent_manifests(store: Store) -> list[Manifest]:
    """Of published runs: the latest first, then the newest."""
    latest = latest_run(store)
    recent = [run_id for run_id in reversed(run_ids(store)[-RECENT:]) if run_id != latest]
    found = side_by_side(partial(readable_manifest, store), [*filter(None, [latest]), *recent])
    return [manifest for _, manifest in found if manifest]


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
