"""Networks in files from elsewhere, .onnx and .tflite, on disk, in a bucket or behind https://, with a sidecar each."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar

from fruitpipe.backbones.backbone import Backbone
from fruitpipe.backbones.convert import Unwritable, kept, kept_in
from fruitpipe.backbones.family import Learning, Listed, memory_of
from fruitpipe.config import Config, Environment
from fruitpipe.errors import UserError
from fruitpipe.scratch import folder_of_process

if TYPE_CHECKING:
    from fruitpipe.backbones.resolved import ResolvedBackbone

ARTEFACT = "backbone.zip"


class PortableNetworks:
    """Networks by the names of their files."""

    names: ClassVar[tuple[str, ...]] = ()
    pattern = r"^((s3|gs|az|https)://[^\s?#@]+|[^:\r\n]+)\.(onnx|tflite)$"
    keys = frozenset({"sha256"})
    defaults: ClassVar[Mapping[str, Any]] = {}
    learns = False

    def listed(self, name: str, environment: Environment) -> Listed:
        """Raises UserError as `resolve` does."""
        facts, path = prepared(Config(input="IMAGES", output="OUT", backbone=name), environment)
        return Listed(name, facts.dimension, facts.input_size, None, path.stat().st_size)

    def worker_memory(self, config: Config) -> int:
        """Raises UserError where there is no such file."""
        from fruitpipe.backbones.network_files import network_size

        return memory_of(network_size(config))

    def resolve(self, config: Config, environment: Environment, learning: Learning | None = None) -> ResolvedBackbone:
        """Reads the network and its sidecar, and checks one against the other unless this machine has done so before.

        Raises UserError where something is missing or wrong in one of them, or the config sees images otherwise.
        """
        from fruitpipe.backbones.resolved import ResolvedBackbone
        from fruitpipe.engines import EngineSpec
        from fruitpipe.engines.choice import onnx_library
        from fruitpipe.engines.package import TEXT, beside, told_in

        if (suffix := suffix_of(config.backbone)) == ".onnx":
            onnx_library()
        facts, path = prepared(config, environment)
        wanted = told_in(path).steps
        if others := {name: value for name, value in wanted.items() if value != getattr(config.image, name)}:
            keys = ", ".join(f"{name}: {value}" for name, value in others.items())
            raise UserError(
                f"{beside(facts.name)} says that {facts.name} was trained on other pictures: add "
                f"`image: {{{keys}}}` to the config."
            )
        text = path.with_name(TEXT)
        engine = EngineSpec(suffix[1:], path.resolve())
        return ResolvedBackbone.of(config, facts, engine, text=text if text.exists() else None)


def suffix_of(name: str) -> str:
    """.onnx or .tflite."""
    return PurePosixPath(name).suffix


def prepared(config: Config, environment: Environment) -> tuple[Backbone, Path]:
    """Facts about a network and its package in the cache, where it is put once a process of its own has run it. Beside
    it is that of its text tower, where it has one.

    What https:// names is known by its `sha256`, and asked for once. Where the cache cannot be written, as in a
    container, the package is one of this process.
    """
    from fruitpipe.backbones.inspection import inspect
    from fruitpipe.backbones.network_files import read_network, read_text_tower
    from fruitpipe.engines.package import TEXT, Package, TextPackage

    name = PurePosixPath(config.backbone).name

    def read() -> tuple[Package, TextPackage | None]:
        package = Package(name, *read_network(config))
        return package, read_text_tower(config, package)

    read_already = None
    if config.backbone.startswith("https://"):
        identity = f"{config.backbone} {config.sha256}"
    else:
        package, text = read_already = read()
        parts = [package.network, package.sidecar, *([text.network, text.tokenizer] if text else [])]
        identity = " ".join(hashlib.sha256(part).hexdigest() for part in parts)

    def make(folder: Path) -> None:
        package, text = read_already or read()
        package.write(folder / ARTEFACT)
        if text:
            text.write(folder / TEXT)
        inspect(config.backbone, folder, ARTEFACT)

    target = kept_in(environment, name, identity)
    try:
        return kept(target, name, ARTEFACT, make)
    except Unwritable:
        return kept(folder_of_process() / target.name, name, ARTEFACT, make)
