"""Reads manifest files: pools, tenants and Secrets, and for each fault file, line, field, message and mend."""

from __future__ import annotations

import base64
import binascii
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aoai_operator.adapters.manifests.located import Manifests, Origin
from aoai_operator.adapters.manifests.yaml_source import Document, YamlFault, documents
from aoai_operator.core.api import KINDS, AOAIBackendPool, Invalid, TenantQuota, parse
from aoai_operator.core.located import LocatedFault
from aoai_operator.core.names import PoolKey, SecretRef
from aoai_operator.core.secret import SecretValue

SUFFIXES = frozenset({".yaml", ".yml", ".json"})
MAX_BYTES = 16 * 1024 * 1024
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")


def read_manifests(paths: Iterable[Path]) -> Manifests:
    """Read files, and every *.yaml, *.yml and *.json below directories. Never raises: what is wrong is in `faults`."""
    reading = _Reading()
    for path in paths:
        found = list(_files(path))
        if not found:
            reading.fault(
                LocatedFault(str(path), 0, "", "", "holds no manifest", "name a directory with *.yaml, *.yml or *.json")
            )
        for file in found:
            reading.file(file)
    return reading.manifests()


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for found in sorted(path.rglob("*")):
        # A mounted ConfigMap shows each file twice: as a link, and in a directory `..<time>` beside it.
        inside = found.relative_to(path).parts
        if found.suffix in SUFFIXES and found.is_file() and not any(part.startswith("..") for part in inside):
            yield found


class _Reading:
    """Gathers what the files hold."""

    def __init__(self) -> None:
        self._resources: dict[tuple[str, PoolKey], AOAIBackendPool | TenantQuota] = {}
        self._origins: dict[tuple[str, PoolKey], Origin] = {}
        self._secrets: dict[SecretRef, SecretValue] = {}
        self._invalid: set[PoolKey] = set()
        self._unreadable: set[str] = set()
        self._faults: set[LocatedFault] = set()
        self._notes: set[LocatedFault] = set()

    def manifests(self) -> Manifests:
        found = self._resources.values()
        return Manifests(
            pools=tuple(one for one in found if isinstance(one, AOAIBackendPool)),
            quotas=tuple(one for one in found if isinstance(one, TenantQuota)),
            secrets=self._secrets,
            invalid=frozenset(self._invalid),
            unreadable=frozenset(self._unreadable),
            faults=tuple(sorted(self._faults)),
            notes=tuple(sorted(self._notes)),
            origins=self._origins,
        )

    def fault(self, *wrong: LocatedFault) -> None:
        self._faults.update(wrong)

    def file(self, path: Path) -> None:
        text = self._text(path)
        if text is None:
            self._unreadable.add(str(path))
            return
        for document in documents(text):
            if isinstance(document, YamlFault):
                self._unreadable.add(str(path))
                self.fault(LocatedFault(str(path), document.line, "", "", document.message, document.mend))
            else:
                self._document(str(path), document)

    def _text(self, path: Path) -> str | None:
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                # Reading a pipe would wait for its writer, and find it empty the next time.
                self.fault(LocatedFault(str(path), 0, "", "", "is not a regular file", "name a file or a directory"))
                return None
            with path.open("rb") as stream:
                content = stream.read(MAX_BYTES + 1)
        except OSError as error:
            self.fault(LocatedFault(str(path), 0, "", "", f"cannot be read: {error.strerror}"))
            return None
        if len(content) > MAX_BYTES:
            self.fault(
                LocatedFault(str(path), 0, "", "", f"is larger than {MAX_BYTES // 1024 // 1024} MiB", "split it")
            )
            return None
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            self.fault(LocatedFault(str(path), line, "", "", "is not UTF-8 text", "save it as UTF-8"))
            return None

    def _document(self, file: str, document: Document) -> None:
        self._object(Origin(file, document.lines), document.data, document.faults)

    def _object(self, origin: Origin, data: Any, wrongs: Sequence[YamlFault]) -> None:
        """Read one object; `wrongs` is what is wrong with its text already."""
        kind = data.get("kind") if isinstance(data, dict) else None
        if kind == "List":
            wrongs = self._list(origin, data.get("items"), wrongs)
        for wrong in wrongs:
            self.fault(LocatedFault(origin.file, wrong.line, _name_of(data), wrong.field, wrong.message, wrong.mend))
        if not isinstance(kind, str):
            wants = "must be a Kubernetes resource: a map with apiVersion, kind and metadata"
            self.fault(LocatedFault(origin.file, origin.line(""), "", "", wants))
        elif kind == "Secret":
            self._secret(origin, data)
        elif kind in KINDS or _is_meant(data, kind):
            self._resource(origin, data, broken=bool(wrongs))
        elif kind != "List":
            self._notes.add(LocatedFault(origin.file, origin.line("kind"), "", "kind", f"{_short(kind)} is ignored"))

    def _list(self, origin: Origin, items: Any, wrongs: Sequence[YamlFault]) -> list[YamlFault]:
        """Read the items of a List, each with what is wrong in its text; return what is wrong outside of them."""
        rest = list(wrongs)
        for index, item in enumerate(items if isinstance(items, list) else ()):
            prefix = f"items[{index}]"
            inside = [wrong for wrong in rest if wrong.field == prefix or wrong.field.startswith(f"{prefix}.")]
            rest = [wrong for wrong in rest if wrong not in inside]
            own = [replace(wrong, field=wrong.field.removeprefix(prefix).removeprefix(".")) for wrong in inside]
            self._object(_within(origin, prefix), item, own)
        return rest

    def _resource(self, origin: Origin, data: Any, *, broken: bool) -> None:
        found = parse(data)
        if isinstance(found, Invalid):
            key = PoolKey(found.namespace, found.name)
            named = _name_of(data)
            for wrong in found.faults:
                self.fault(
                    LocatedFault(origin.file, origin.line(wrong.field), named, wrong.field, wrong.message, wrong.mend)
                )
            if found.kind == AOAIBackendPool.KIND:
                self._invalid.add(key)
        elif broken:
            if isinstance(found, AOAIBackendPool):
                self._invalid.add(found.key)
        elif self._is_new(found.KIND, found.key, origin):
            self._resources[found.KIND, found.key] = found

    def _is_new(self, kind: str, key: PoolKey, origin: Origin) -> bool:
        """Note where an object stands; a second one of the same kind and name is a fault, and the first one stays."""
        first = self._origins.setdefault((kind, key), origin)
        if first is origin:
            return True
        place = f"{first.file}:{first.line('metadata.name')}"
        self.fault(
            LocatedFault(
                origin.file,
                origin.line("metadata.name"),
                f"{kind} {key}",
                "metadata.name",
                f"is given twice; the first is at {place}",
                "remove or rename one of them",
            )
        )
        return False

    def _secret(self, origin: Origin, data: Mapping[str, Any]) -> None:
        metadata = data.get("metadata")
        metadata = metadata if isinstance(metadata, dict) else {}
        name, namespace = metadata.get("name"), metadata.get("namespace") or "default"
        if data.get("apiVersion") != "v1":
            self.fault(LocatedFault(origin.file, origin.line("apiVersion"), "Secret", "apiVersion", "must be v1"))
            return
        for part, value in (("name", name), ("namespace", namespace)):
            if not isinstance(value, str) or not _NAME.fullmatch(value):
                path = f"metadata.{part}"
                message = "must be a name of lower-case letters, digits, hyphens and dots"
                self.fault(LocatedFault(origin.file, origin.line(path), "Secret", path, message))
                return
        key = PoolKey(namespace, str(name))
        if self._is_new("Secret", key, origin):
            for entry, value in self._entries(origin, data, f"Secret {key}"):
                self._secrets[SecretRef(key.namespace, key.name, entry)] = SecretValue(value)

    def _entries(self, origin: Origin, data: Mapping[str, Any], named: str) -> Iterator[tuple[str, str]]:
        """Yield the entries; those of `stringData` last, since they win over those of `data`."""
        for part in ("data", "stringData"):
            entries = data.get(part)
            if entries is None:
                continue
            if not isinstance(entries, dict):
                self.fault(LocatedFault(origin.file, origin.line(part), named, part, "must be a map of texts"))
                continue
            for entry, value in entries.items():
                path = f"{part}.{entry}"
                if not _KEY.fullmatch(entry):
                    mend = "use letters, digits, dots, underscores and hyphens"
                    self.fault(
                        LocatedFault(origin.file, origin.line(part), named, part, "has a key that is not allowed", mend)
                    )
                elif not isinstance(value, str):
                    self.fault(LocatedFault(origin.file, origin.line(path), named, path, "must be a text", "quote it"))
                elif part == "stringData":
                    yield entry, value
                elif (decoded := _decoded(value)) is None:
                    mend = "encode it, or use stringData"
                    self.fault(
                        LocatedFault(origin.file, origin.line(path), named, path, "must be a text in base64", mend)
                    )
                else:
                    yield entry, decoded


def _within(origin: Origin, prefix: str) -> Origin:
    """Return the origin of an item of a List."""
    lines = {
        path.removeprefix(prefix).removeprefix("."): line
        for path, line in origin.lines.items()
        if path == prefix or path.startswith(f"{prefix}.")
    }
    return Origin(origin.file, lines)


def _name_of(data: Any) -> str:
    """Name an object that may be broken, as in "AOAIBackendPool ai/chat"; empty when it does not say who it is."""
    metadata = data.get("metadata") if isinstance(data, dict) else None
    kind, name = (data.get("kind"), metadata.get("name")) if isinstance(metadata, dict) else (None, None)
    if not isinstance(kind, str) or not isinstance(name, str) or not isinstance(metadata, dict):
        return ""
    return f"{_short(kind)} {_short(str(metadata.get('namespace') or 'default'))}/{_short(name)}"


def _is_meant(data: Mapping[str, Any], kind: str) -> bool:
    """Tell whether an object of another kind was meant to be ours: by its group, or by the spelling of its kind."""
    version = data.get("apiVersion")
    ours = isinstance(version, str) and version.startswith("aoai.dev/")
    return ours or kind.lower() in {name.lower() for name in KINDS}


def _decoded(text: str) -> str | None:
    try:
        return base64.b64decode("".join(text.split()), validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        return None


def _short(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text[:80])
