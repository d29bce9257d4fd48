"""What other packages may add to fruitpipe, each shown by one that changes no file of it.

Commands are processes of their own: what is installed is found out once in each.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import BACKBONE, manifest, one_line_error, process
from outside import install

STAGE = """
    import numpy as np

    from fruitpipe.pipeline.stage import Context
    from fruitpipe.result.manifest import Record


    class Brightness:
        \"\"\"How strong features are, by label; only where there are labels.\"\"\"

        def wanted(self, config):
            return config.labels == "parent"

        def run(self, context: Context) -> Record:
            features, labels = context.sample(100)
            means = {label: float(features[labels == label].mean()) for label in sorted(set(labels.tolist()))}
            return Record(
                label="strength",
                title="Mean of features, by label",
                note=f"of {len(labels)} images, {context.model.pca.length} components",
                columns=["label", "mean"],
                rows=[[label, f"{mean:.4f}"] for label, mean in means.items()],
                means=means,
            )
"""


def test_a_stage_from_outside_is_in_manifest_show_and_report(
    fruits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site").mkdir()
    entries = {"fruitpipe.stages": {"strength": "outside_stage:Brightness"}}
    install(tmp_path / "site", "outside_stage", STAGE, entries, monkeypatch)
    out = tmp_path / "out"
    process("run", fruits, out, "--set", BACKBONE)
    found = manifest(out)
    assert found["strength"]["means"].keys() == found["counts"]["by_label"].keys()
    assert all(mean > 0 for mean in found["strength"]["means"].values())
    assert "strength" in found["timings"]
    shown = process("show", out).stdout
    assert f"strength    of 100 images, {found['model']['components']} components\n" in shown
    assert f"  Apple     {found['strength']['means']['Apple']:.4f}\n" in shown
    assert json.loads(process("show", out, "--json").stdout)["strength"] == found["strength"]
    page = (out / "runs" / found["run"] / "report.html").read_text()
    assert "<h2>Mean of features, by label</h2>" in page
    assert f'<td>Apple</td><td class="count">{found["strength"]["means"]["Apple"]:.4f}</td>' in page
    process("run", fruits, out, "--set", BACKBONE, "--set", "labels=none")
    assert manifest(out)["strength"] is None


def test_a_plug_in_that_cannot_be_loaded_or_claims_a_name_that_is_taken_is_one_line(
    fruits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, code, entry, says in (
        ("broken_stage", "import nowhere_to_be_found", "mine", "cannot load broken_stage:Stage: No module named"),
        ("rival_stage", "Stage = None", "evaluation", "rival_stage:Stage claims a name that is taken"),
        ("greedy_stage", "Stage = None", "counts", "a stage may not be called counts"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        with monkeypatch.context() as patch:
            install(folder, name, code, {"fruitpipe.stages": {entry: f"{name}:Stage"}}, patch)
            done = process("run", fruits, tmp_path / "out", "--set", BACKBONE, code=2)
            assert says in one_line_error(done)
    assert not (tmp_path / "out").exists(), "told before anything is made"
