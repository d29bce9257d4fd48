"""README, docs and CONTRIBUTING: every command in them does what it is there for, and every link leads somewhere.

Commands are the lines of ```bash blocks, and code within a sentence that begins with one of PROGRAMS. Each has exactly
one rule: most are run, on a few drawn images and a real S3 server; where that needs what tests do not have, such as a
cluster, the rule says what is looked at instead.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
import yaml
from botocore import xform_name
from botocore.session import Session
from botocore.validate import ParamValidator
from chart import helm
from command import BACKBONE, fruitpipe
from s3 import options, upload
from seaweed import BUCKET, Server
from typer.main import get_command

from fruitpipe import config
from fruitpipe.cli.app import app
from fruitpipe.cli.releases import commands
from fruitpipe.config.sidecar import Sidecar, TextTower, sidecar_of
from fruitpipe.engines.reference_pictures import pixels_digest, reference_picture

ROOT = Path(__file__).parents[1]
PAGES = {path.name: path for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md")))}
PAGES |= {str(path.relative_to(ROOT)): path for path in sorted(ROOT.glob("[ek]*/*/README.md"))}
LINKING = [*PAGES.values(), ROOT / "CHANGELOG.md", ROOT / "SECURITY.md"]

PROGRAMS = (
    r"(?:fruitpipe|make|pip|python|docker|podman|buildah|helm|kubectl|aws|gcloud|az|terraform"
    r"|\S+/python|benchmarks/\w+\.py)"
)
ON_A_CLUSTER = {each.name or getattr(each.callback, "__name__", "") for each in commands.registered_commands}
"""Verbs that tests/test_releases.py runs."""
ENDLESS = {"serve"}
"""Verbs that end when they are told to; tests of their own run them."""
OF_TEXTS = {"similar": "--text", "curate": "--labels"}
"""Options that need a network with a text tower; tests/test_text.py gives them to one."""
BLOCK = re.compile(r"^```(.*)\n((?s:.*?))^```$", re.MULTILINE)
SPAN = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]


class Text(NamedTuple):
    """What a page holds, in its order."""

    commands: list[str]
    python: list[str]
    yaml: list[str]


def read(page: str) -> Text:
    """Raises AssertionError where code is of no known language, or a command is where nobody would look for it."""
    found = Text([], [], [])
    for language, code in BLOCK.findall(page):
        assert language in {"bash", "python", "yaml", "text", "sql"}, f"a block of {language or 'no language'}: {code}"
        if language == "bash":
            lines = code.replace("\\\n", "").splitlines()
            found.commands.extend(line for line in lines if shlex.split(line, comments=True))
        elif language in {"text", "sql"}:
            assert not re.search(rf"^{PROGRAMS} ", code, re.MULTILINE), f"a command outside of ```bash: {code}"
        else:
            getattr(found, language).append(code)
    prose = BLOCK.sub("", page)
    assert not re.search(rf"^\s{{4,}}{PROGRAMS} ", prose, re.MULTILINE), "a command outside of ```bash"
    spans = (" ".join(span.split()) for span in SPAN.findall(prose))
    found.commands.extend(span for span in spans if re.match(rf"{PROGRAMS} ", span))
    return found


class Desk:
    """Where a reader sits: a folder with images, a result and a config, and a bucket with the same images."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.results: set[str] = set()

    def fruitpipe(self, *words: str) -> str:
        """What the command line prints; it must end well."""
        return fruitpipe(*words).stdout

    def meant(self, text: str) -> str:
        """With this desk's names for those that stand for the reader's."""
        text = text.replace("s3://bucket/", f"s3://{BUCKET}/docs/")
        names = {"IMAGES": "photos", "OUT": "out", "MODEL": "out/runs/RUN/model", "COMMAND": "run"}
        names["IMAGE..."] = "photos/Apple/apple_000.jpg"
        text = re.sub(rf"(?<!\S)({'|'.join(map(re.escape, names))})(?!\S)", lambda found: names[found[1]], text)
        text = re.sub(r'([^\s"]+)/runs/RUN\b', lambda found: f"{found[1]}/runs/{self.latest(found[1])}", text)
        return re.sub(r"(?<!\S)(\S+) RUN(?!\S)", lambda found: f"{found[1]} {self.latest(found[1])}", text)

    def latest(self, out: str) -> str:
        """Its published run; there is one, even if a page begins with results."""
        if out not in self.results:
            runs(self, ["fruitpipe", "run", "photos", out])
        run: str = json.loads(self.fruitpipe("show", out, "--json", *self.reaching(out)))["run"]
        return run

    def reaching(self, text: str) -> list[str]:
        """Options for the tests' own server."""
        return options(self.endpoint) if "s3://" in text else []


def runs(desk: Desk, words: list[str]) -> None:
    """A verb by itself is a mention of one, where it takes arguments. A run onto a result that is there is planned."""
    verb, *rest = words[1:]
    if verb in ON_A_CLUSTER | ENDLESS or OF_TEXTS.get(verb) in rest:
        if rest:  # a verb by itself is a mention of one
            parses(words[1:])
        return
    known = get_command(app).commands[verb]
    if not rest and any(each.param_type_name == "argument" for each in known.params):
        rest = ["--help"]
    if verb in {"run", "plan", "doctor", "convert"} and not re.search("backbones?=", " ".join(rest)):
        rest += ["--set", BACKBONE]  # whose weights are wherever pip is
    if verb == "run" and (places := list(takewhile(lambda word: not word.startswith("-"), rest))):
        out = places[-1].rstrip("/")
        verb = "plan" if out in desk.results else "run"
        desk.results.add(out)
    desk.fruitpipe(verb, *rest, *desk.reaching(" ".join(rest)))


def is_an_option(desk: Desk, words: list[str]) -> None:
    """Of the command line as a whole; tests of its own run it."""
    assert words[1] in desk.fruitpipe("--help")


def parses(words: list[str]) -> None:
    """They are arguments of the command line."""
    group = get_command(app)
    with group.make_context("fruitpipe", words, resilient_parsing=not words) as context:
        if words:
            name, verb, rest = group.resolve_command(context, words)
            verb.make_context(name, rest, parent=context)


def is_a_target(desk: Desk, words: list[str]) -> None:
    done = subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def names_extras(desk: Desk, words: list[str]) -> None:
    assert words[1] == "install"
    for name in words[2:]:
        found = re.fullmatch(r"(?:fruitpipe|\.)\[(.+)\]", name)
        assert name == "." or (found and set(found[1].split(",")) <= set(PROJECT["optional-dependencies"])), name


def runs_in_an_environment(desk: Desk, words: list[str]) -> None:
    """Of an extra; tests/test_hub.py runs it."""
    asked = words.index("--from") + 1
    names_extras(desk, ["pip", "install", words[asked]])
    assert words[asked + 1] == "fruitpipe"
    parses(words[asked + 2 :])


def runs_in_the_image(desk: Desk, words: list[str]) -> None:
    """Options are some of those that docker and podman share; what follows the image is a command line."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("program")
    parser.add_argument("run", choices=["run"])
    parser.add_argument("-v", "--volume", action="append")
    parser.add_argument("--user")
    parser.add_argument("image")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    parses(parser.parse_args(words).arguments)


def renders(desk: Desk, words: list[str]) -> list[dict[str, Any]]:
    """The objects that would be installed, or upgraded."""
    done = helm("template", *words[2:])
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def installed(desk: Desk) -> list[dict[str, Any]]:
    (command,) = [each for each in read(PAGES["kubernetes.md"].read_text()).commands if each.startswith("helm install")]
    return renders(desk, shlex.split(command))


def has_a_test(desk: Desk, words: list[str]) -> None:
    """In the release that is installed."""
    hooks = [each for each in installed(desk) if "helm.sh/hook" in each["metadata"].get("annotations", {})]
    assert hooks
    assert {each["metadata"]["labels"]["app.kubernetes.io/instance"] for each in hooks} == {words[2]}


def has_dependencies(desk: Desk, words: list[str]) -> None:
    """Those beside it are there; the operator's chart is elsewhere."""
    chart = Path(words[3])
    places = [each["repository"] for each in yaml.safe_load((chart / "Chart.yaml").read_text())["dependencies"]]
    assert places
    for place in places:
        assert urlsplit(place).scheme == "https" or (chart / place.removeprefix("file://") / "Chart.yaml").exists()


def is_the_driver(desk: Desk, words: list[str]) -> None:
    """The operator calls it after the application."""
    (application,) = [each for each in installed(desk) if each["kind"] == "SparkApplication"]
    assert words[1:] == ["describe", "pod", f"{application['metadata']['name']}-driver"]


def makes_the_secret(desk: Desk, words: list[str]) -> None:
    """It has the key that Spark reads as a file, and is where the release is."""
    assert words[3] == "generic"
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("name")
    parser.add_argument("--namespace")
    parser.add_argument("--from-literal")
    made = parser.parse_args(words[4:])
    (application,) = [each for each in installed(desk) if each["kind"] == "SparkApplication"]
    assert (
        made.from_literal.split("=")[0] == Path(application["spec"]["sparkConf"]["spark.authenticate.secret.file"]).name
    )
    assert f"--namespace {made.namespace}" in PAGES["kubernetes.md"].read_text().split("kubectl")[0]


def is_applied(desk: Desk, words: list[str]) -> None:
    """What is named is there."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--namespace")
    parser.add_argument("--server-side", action="store_true")
    parser.add_argument("--filename", action="append", default=[])
    parser.add_argument("--kustomize")
    given = parser.parse_args(words[2:])
    for name in given.filename:
        assert all(each["kind"] for each in yaml.safe_load_all(Path(name).read_text()))
    if given.kustomize:
        assert (Path(given.kustomize) / "kustomization.yaml").exists()
    assert given.filename or given.kustomize


def is_known_to_aws(desk: Desk, words: list[str]) -> None:
    """The operation is one of AWS's own description of its API, which also takes all that it is given."""
    _, service, operation, *options = words
    model = Session().get_service_model({"s3api": "s3"}.get(service, service))
    names = {xform_name(name, "-"): name for name in model.operation_names}
    shape = model.operation_model(names[operation]).input_shape
    members = {xform_name(name, "-"): (name, member) for name, member in shape.members.items()}
    given = {}
    while options:
        name, member = members[options.pop(0).removeprefix("--")]
        values = list(takewhile(lambda word: not word.startswith("--"), options))
        del options[: len(values)]
        given[name] = of_shape(member, values)
    problems = ParamValidator().validate(given, shape)
    assert not problems.has_errors(), problems.generate_report()


def of_shape(shape: Any, values: list[str]) -> Any:
    """What the command line of AWS makes of words: documents from files, structures from `a=b,c=d`."""
    (first, *_) = values
    if first.startswith("file://"):
        text = Path(first.removeprefix("file://")).read_text()
        return text if shape.type_name == "string" else json.loads(text)
    if shape.type_name == "structure":
        return {key: value == "true" for key, value in (pair.split("=") for pair in first.split(","))}
    return values if shape.type_name == "list" else first


def has_variables(desk: Desk, words: list[str]) -> None:
    """The folder is there, and declares what it is given."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("-chdir", type=Path, required=True)
    parser.add_argument("-var", action="append", default=[])
    parser.add_argument("command", choices=["init", "apply"])
    given = parser.parse_args(words[1:])
    declared = re.findall(r'^variable "(\w+)"', (given.chdir / "variables.tf").read_text(), re.MULTILINE)
    assert {each.partition("=")[0] for each in given.var} <= set(declared)


def names_accounts(desk: Desk, words: list[str]) -> None:
    """Of the release, where it gives rights to one. Nothing here knows these programs."""
    accounts = {each["metadata"]["name"] for each in installed(desk) if each["kind"] == "ServiceAccount"}
    for namespace, account in re.findall(r"(?:/ns/|:serviceaccount:)([\w-]+)(?:/sa/|:)([\w-]+)", " ".join(words)):
        assert namespace == "fruits"
        assert account in accounts


def takes_options(desk: Desk, words: list[str]) -> None:
    """The script's own parser takes them, without what it imports, and without types. `.venv/bin/python` runs it."""
    script, *words = words[words[0] == ".venv/bin/python" :]
    parser = argparse.ArgumentParser(exit_on_error=False)
    for call in ast.walk(ast.parse(Path(script).read_text())):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument":
            known = {}
            for word in call.keywords:
                with suppress(ValueError):
                    known[word.arg] = ast.literal_eval(word.value)
            kept = {name: known[name] for name in ("action", "nargs") if name in known}
            parser.add_argument(*map(ast.literal_eval, call.args), **kept)
    parser.parse_args(words)


def are_tests(desk: Desk, words: list[str]) -> None:
    assert all((ROOT / name).exists() for name in words[3:])


def is_a_module(desk: Desk, words: list[str]) -> None:
    assert find_spec(words[2])


def ends_well(desk: Desk, words: list[str]) -> None:
    """In the shell, of programs that are everywhere."""
    line = " ".join(word if word in {"|", "&&"} else shlex.quote(word) for word in words)
    subprocess.run(["bash", "-o", "pipefail", "-c", line], stdout=subprocess.DEVNULL, check=True)


RULES: dict[str, Callable[[Desk, list[str]], object]] = {
    r"fruitpipe [a-zA-Z]": runs,
    r"fruitpipe --": is_an_option,
    r"make ": is_a_target,
    r"pip ": names_extras,
    r"uvx ": runs_in_an_environment,
    r"(docker|podman) ": runs_in_the_image,
    r"helm (install|upgrade) ": renders,
    r"helm test ": has_a_test,
    r"helm dependency build ": has_dependencies,
    r"kubectl create secret ": makes_the_secret,
    r"kubectl describe ": is_the_driver,
    r"kubectl apply ": is_applied,
    r"aws ": is_known_to_aws,
    r"terraform ": has_variables,
    r"(gcloud|az) ": names_accounts,
    r"(\.venv/bin/python )?benchmarks/": takes_options,
    r"cd ": ends_well,
    r"\.venv/bin/python -m pytest ": are_tests,
    r"python -m ": is_a_module,
}


def rule(command: str) -> Callable[[Desk, list[str]], object]:
    (found,) = [check for pattern, check in RULES.items() if re.match(pattern, command)] or [None]
    assert found, f"no rule of tests/test_docs.py looks at: {command}"
    return found


@pytest.fixture(scope="module")
def desk(
    tmp_path_factory: pytest.TempPathFactory, fruits: Path, server: Server, admin: Any, s3: config.S3Config
) -> Iterator[Desk]:
    folder = tmp_path_factory.mktemp("desk")
    for number, path in enumerate(sorted(fruits.rglob("*.jpg"))[::10]):
        for place in ("photos", f"more/2026-{number % 2 + 1}"):
            target = folder / place / path.relative_to(fruits)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    (folder / "run.yaml").write_text("pca: {variance: 0.95}\n")
    for name in ("benchmarks", "examples", "helm", "k8s"):
        (folder / name).symlink_to(ROOT / name)
    upload(admin, folder / "photos", "docs/images")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        patch.setenv("BROWSER", "true %s")
        patch.setenv("PYTHONPATH", str(ROOT / "examples"), prepend=":")
        yield Desk(server.endpoint)


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_commands_do_what_they_are_there_for(name: str, desk: Desk) -> None:
    for command in read(PAGES[name].read_text()).commands:
        plain = re.sub(r"\[((--)?\w+)\](?= |$)", r"\1", command)  # what may be left out, is not
        rule(command)(desk, shlex.split(desk.meant(plain), comments=True))


@pytest.mark.parametrize(
    "name", [name for name, path in PAGES.items() if name != "read.md" and read(path.read_text()).python]
)
def test_python_runs(name: str, desk: Desk) -> None:
    for code in read(PAGES[name].read_text()).python:
        exec(compile(desk.meant(code), name, "exec"), {})


@pytest.mark.parametrize("name", [name for name, path in PAGES.items() if read(path.read_text()).yaml])
def test_yaml_is_a_config(name: str, tmp_path: Path) -> None:
    for text in read(PAGES[name].read_text()).yaml:
        if text.startswith("# model.yaml"):
            is_a_sidecar(text)
            continue
        (tmp_path / "run.yaml").write_text(text)
        config.validate(tmp_path / "run.yaml")


def is_a_sidecar(text: str) -> None:
    """It has all keys, or all of a text tower, and its pictures are those that it says."""
    told = sidecar_of(text.encode(), "model.yaml")
    if told.text:
        assert set(yaml.safe_load(text)["text"]) == set(TextTower.model_fields)
    else:
        shown = set(yaml.safe_load(text)) | set(re.findall(r"^# (\w+):", text, re.MULTILINE))
        assert shown == set(Sidecar.model_fields)
    for reference in told.references or ():
        assert pixels_digest(reference_picture(reference.kind, reference.seed, told.size or 0)) == reference.pixels


def test_nothing_that_looks_like_a_command_is_passed_over() -> None:
    block = "```bash\n# so:\nmake demo  # there\nhelm install a b \\\n  --x\n```\n"
    page = f"`fruitpipe\nruns OUT` lists, `make` makes.\n{block}"
    assert read(page).commands == ["make demo  # there", "helm install a b   --x", "fruitpipe runs OUT"]
    for hidden in ("```\nx\n```\n", "```text\nmake demo\n```\n", "So:\n\n    make demo\n", "```sh\nmake demo\n```\n"):
        with pytest.raises(AssertionError):
            read(hidden)
    for unknown in ("curl https://example.org", "kubernetes", "helm rollback fruits", "python setup.py"):
        with pytest.raises(AssertionError):
            rule(unknown)


@pytest.mark.parametrize(
    "command",
    [
        "fruitpipe plan photos nowhere --no-such-option",
        "make no-such-target",
        "pip install 'fruitpipe[nothing]'",
        "docker run image no-such-verb",
        "docker run --no-such-option image",
        "helm install fruits helm/fruitpipe --set pipeline.inptu=a",
        "kubectl describe pod other-driver",
        "kubectl apply --filename k8s/missing.yaml",
        "aws s3api put-bucket-encrypting --bucket a",
        "aws s3api put-bucket-encryption --bucket a --server-side-encryption-configuration file://examples/aws/budget.json",
        "terraform -chdir=examples/terraform apply -var=buckets=a",
        "gcloud storage buckets add-iam-policy-binding gs://a --member=principal://pool/subject/ns/fruits/sa/other",
        "benchmarks/peers.py",
        "benchmarks/peers.py IMAGES --no-such-option",
    ],
)
def test_a_wrong_command_fails(command: str, desk: Desk) -> None:
    with pytest.raises((Exception, SystemExit)):
        rule(command)(desk, shlex.split(command))


def test_every_extra_has_a_row() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \|", PAGES["configuration.md"].read_text().partition("## What it needs")[2], re.MULTILINE
    )
    assert rows == sorted(PROJECT["optional-dependencies"].keys() - {"dev"})


@pytest.mark.parametrize("page", PAGES)
def test_blocks_to_be_copied_name_what_runs_a_benchmark(page: str) -> None:
    """The scripts have no rights to be run by themselves, nor would they find their libraries."""
    blocks = [code for _, code in BLOCK.findall(PAGES[page].read_text())]
    assert not [line for code in blocks for line in code.splitlines() if line.startswith("benchmarks/")]


@pytest.mark.parametrize("path", LINKING, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in LINK.findall(path.read_text()):
        place = urlsplit(target)
        if place.scheme:
            assert place.scheme == "https", target
            assert re.fullmatch(r"[\w-]+(\.[\w-]+)+", place.netloc), target
            continue
        page = path.parent / place.path if place.path else path
        assert page.exists(), target
        assert not place.fragment or place.fragment in anchors(page.read_text()), target


def test_rooms_are_those_of_the_contract_in_its_order() -> None:
    (rooms,) = [code for _, code in BLOCK.findall(PAGES["architecture.md"].read_text()) if code.startswith("cli ")]
    (contract,) = (each for each in PYPROJECT["tool"]["importlinter"]["contracts"] if each["type"] == "layers")
    places = []
    for layer in contract["layers"]:
        found = [re.search(rf"(?m)(^|  |, ){room}( |,|$)", rooms) for room in layer.split(" | ")]
        assert all(found), layer
        places.append([rooms[: each.end()].count("\n") for each in found if each])
    assert all(max(upper) <= min(lower) for upper, lower in pairwise(places))


def anchors(page: str) -> set[str]:
    """What GitHub makes of headings."""
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_short_and_leads_to_every_page_and_verb() -> None:
    readme = (ROOT / "README.md").read_bytes()
    assert len(readme) <= 6000
    linked = {(ROOT / target).resolve() for target in LINK.findall(readme.decode()) if "://" not in target}
    assert {path for path in LINKING if path.name != "README.md"} <= linked
    named = {command.split()[1] for command in read(readme.decode()).commands if command.startswith("fruitpipe ")}
    assert set(get_command(app).commands) <= named
