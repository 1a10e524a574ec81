"""The image without an engine to build it: the Dockerfile's own steps, run in a folder. And kind's configuration."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from support.chart import Helm, arguments_of
from support.cluster.commands import CommandFailedError, run
from support.cluster.toolchain import tools

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


class Step(NamedTuple):
    """One instruction of the Dockerfile."""

    name: str
    argument: str


def stages() -> list[list[Step]]:
    """Return the instructions of each stage."""
    text = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE))
    steps = [Step(*line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]
    starts = [number for number, step in enumerate(steps) if step.name == "FROM"]
    return [steps[begin:end] for begin, end in zip(starts, [*starts[1:], None], strict=True)]


def variables(steps: list[Step]) -> Iterator[tuple[str, str]]:
    for step in steps:
        if step.name == "ENV":
            yield from (part.split("=", 1) for part in step.argument.split())  # type: ignore[misc]


async def build(folder: Path) -> Path:
    """Run the steps of the first stage with `folder` in place of /, and return the directory that the image gets."""
    steps, final = stages()
    base = folder / "base"
    await run(Path(sys.executable), "-m", "venv", str(base), environment={"PATH": os.environ["PATH"]})
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("UV_", "VIRTUAL_ENV"))}
    environment |= {name: value.replace("/opt/", f"{folder}/opt/") for name, value in variables(steps)}
    # The cache of uv is for who builds again and again; an image must not have one.
    assert environment.pop("UV_NO_CACHE") == "1"
    # It takes half a minute, and changes nothing of what can be seen here.
    assert environment.pop("UV_COMPILE_BYTECODE") == "1"
    environment["PATH"] = f"{base / 'bin'}:{environment['PATH']}"
    here = folder
    for name, argument in steps:
        if name == "WORKDIR":
            here = folder / argument.lstrip("/")
            here.mkdir(parents=True)
        elif name == "COPY":
            _copy(argument, here)
        elif name == "RUN":
            await run(Path("/bin/sh"), "-ec", f"cd {here}; {argument}", environment=environment)
    copied = next(step.argument.split() for step in final if step.name == "COPY")
    assert copied[0] == "--from=build"
    return folder / copied[1].lstrip("/")


def _copy(argument: str, here: Path) -> None:
    *sources, target = argument.split()
    for source in sources:
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, here / target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / source, here / target)


@pytest.mark.timeout(600)  # it downloads what uv has not got yet
async def test_what_the_image_holds_runs(tmp_path: Path) -> None:
    installed = await build(tmp_path)
    environment = {"PATH": f"{installed}/bin:/usr/bin:/bin", "HOME": "/nonexistent", "COLUMNS": "200"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    operator = installed / "bin" / "aoai-operator"
    assert (await run(operator, "version", environment=environment)).strip() == project["version"]
    assert "/1.40.0/" in await run(installed / "bin" / "envoy", "--version", environment=environment)
    assert "kind: CustomResourceDefinition" in await run(operator, "crds", environment=environment)
    with pytest.raises(CommandFailedError, match="No module named 'pytest'"):
        await run(installed / "bin" / "python", "-c", "import pytest", environment=environment)
    code = "import aoai_operator; print(aoai_operator.__file__)"
    where = await run(installed / "bin" / "python", "-c", code, environment=environment)
    assert Path(where.strip()).is_relative_to(installed)
    for container in ("operator", "envoy"):
        await _takes_the_charts_options(installed, container, environment, tmp_path)


async def _takes_the_charts_options(installed: Path, container: str, environment: dict[str, str], folder: Path) -> None:
    """The programs and options of the chart are those of the image: each is named in their help."""
    name = "aoai-operator" if container == "operator" else "aoai-operator-gateway"
    deployment = (await Helm(folder).objects("--set", "sidecars.allowed=true"))["Deployment", name]
    program, *arguments = arguments_of(deployment, container)
    command = [arguments[0]] if not arguments[0].startswith("-") else []
    told = await run(installed / "bin" / program, *command, "--help", environment=environment)
    options = {argument.partition("=")[0] for argument in arguments if argument.startswith("--")}
    assert {option for option in options if option not in told} == set()
    pre_stop = deployment["spec"]["template"]["spec"]["containers"][0].get("lifecycle", {}).get("preStop")
    if pre_stop:
        program, *command = pre_stop["exec"]["command"]
        told = await run(installed / "bin" / program, command[0], "--help", environment=environment)
        assert {option for option in command if option.startswith("--") and option not in told} == set()


def test_the_build_sees_only_what_it_copies() -> None:
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    seen = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    build_steps, _ = stages()
    copied = {source for name, argument in build_steps if name == "COPY" for source in argument.split()[:-1]}
    assert "*" in rules
    assert seen == copied


async def test_the_user_is_the_charts(tmp_path: Path) -> None:
    user = next(step.argument for step in stages()[1] if step.name == "USER")
    deployment = (await Helm(tmp_path).objects())["Deployment", "aoai-operator"]
    context = deployment["spec"]["template"]["spec"]["securityContext"]
    assert user == f"{context['runAsUser']}:{context['runAsGroup']}"
    entry = next(step.argument for step in stages()[1] if step.name == "ENTRYPOINT")
    assert json.loads(entry) == deployment["spec"]["template"]["spec"]["containers"][0]["command"]


def test_uv_is_the_makefiles() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.findall(r"uv==([\d.]+)", DOCKERFILE) == re.findall(r"uv==([\d.]+)", makefile)


async def test_kind_takes_its_configuration_and_the_script_names_it(tmp_path: Path) -> None:
    text = (ROOT / "kind-config.yaml").read_text(encoding="utf-8")
    await run(tools()["kind-config"], environment={}, stdin=text)
    config = yaml.safe_load(text)
    script = (ROOT / "scripts" / "kind.sh").read_text(encoding="utf-8")
    assert f"cluster={config['name']}\n" in script
    (mapping,) = [m for node in config["nodes"] for m in node.get("extraPortMappings", ())]
    assert f"httpNodePort={mapping['containerPort']}" in script
    assert f"gateway=http://{mapping['listenAddress']}:{mapping['hostPort']}\n" in script
    named = re.findall(r"[\w./-]+\.yaml", script)
    assert [name for name in named if not (ROOT / name).exists()] == []
    settings = [part for line in re.findall(r"--set (\S+)", script) for part in line.split(",")]
    values = [part.replace('"${image%:*}"', "a").replace('"${image#*:}"', "b") for part in settings]
    service = (await Helm(tmp_path).objects("--set", ",".join(values)))["Service", "aoai-operator-gateway"]
    assert service["spec"]["ports"][0]["nodePort"] == mapping["containerPort"]


async def test_make_kind_says_what_it_needs(tmp_path: Path) -> None:
    for program in ("bash", "dirname"):
        (tmp_path / program).symlink_to(str(shutil.which(program)))
    with pytest.raises(CommandFailedError) as refused:
        await run(ROOT / "scripts" / "kind.sh", environment={"PATH": str(tmp_path)})
    assert "needs these programs on the PATH: docker kind kubectl helm curl\n" in refused.value.output
    assert refused.value.code == 2
    for program in ("docker", "kind", "kubectl", "helm", "curl"):
        (tmp_path / program).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / program).chmod(0o755)
    with pytest.raises(CommandFailedError, match="needs a Docker engine that answers"):
        await run(ROOT / "scripts" / "kind.sh", environment={"PATH": f"{tmp_path}:/bin"})
