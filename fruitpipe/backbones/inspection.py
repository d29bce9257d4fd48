"""Run a network from elsewhere for the first time: what it is, and whether its sidecar is right about it.

In a process of its own, which a damaged file may end, and whose memory goes with it.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

from fruitpipe.backbones.backbone import Backbone
from fruitpipe.backbones.convert import FACTS
from fruitpipe.backbones.own_process import run_module
from fruitpipe.engines.package import TEXT
from fruitpipe.engines.portable import PortableNetwork
from fruitpipe.engines.text import TextEncoder
from fruitpipe.errors import FruitpipeError, UserError, first_line


def inspect(name: str, folder: Path, artefact: str) -> None:
    """Write facts about a package beside it. Raises UserError where it does not run, or not as its sidecar says.

    name: what errors call the network.
    """
    if reason := run_module(__name__, folder / artefact, folder / FACTS):
        raise UserError(f"backbone {name}: {reason}")


def facts_of(package: Path) -> Backbone:
    """Facts about a network that runs as its sidecar says. Raises UserError where it does not."""
    from fruitpipe.engines import EngineSpec
    from fruitpipe.engines.package import open_package

    found = open_package(package)
    engine = EngineSpec(Path(found.name).suffix[1:], package).start()
    assert isinstance(engine, PortableNetwork)
    sidecar = engine.sidecar
    if (text := package.with_name(TEXT)).exists():
        require_one_space(TextEncoder(text), engine, found.name)
    deciding = sidecar.model_dump(include={"layout", "size", "output", "pooling", "l2_normalise"})
    identity = [hashlib.sha256(found.network).hexdigest(), sidecar.levels, deciding]
    return Backbone(
        name=found.name,
        input_size=engine.side,
        layer=sidecar.output or "",
        pooling=sidecar.pooling or "none",
        weights=hashlib.sha256(json.dumps(identity).encode()).hexdigest(),
        dimension=engine.dimension,
        parameters=0,
    )


def require_one_space(encoder: TextEncoder, engine: PortableNetwork, name: str) -> None:
    """Raise UserError where texts and images have no vectors of one length."""
    if encoder.dimension != engine.dimension:
        raise UserError(
            f"{encoder.told.network} gives {encoder.dimension} numbers, and {name} {engine.dimension}: choose the "
            "outputs of both that are compared, such as text_embeds and image_embeds, or export them."
        )


def main() -> None:
    package, facts = map(Path, sys.argv[1:])
    try:
        facts.write_text(facts_of(package).model_dump_json(indent=2))
    except FruitpipeError as error:
        print(first_line(error), file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception as error:  # noqa: BLE001 - whatever a library says of a file that somebody has made
        print(f"it cannot be run: {first_line(error)}. It is damaged, or of another kind.", file=sys.stderr)
        sys.exit(UserError.exit_code)


if __name__ == "__main__":
    main()
