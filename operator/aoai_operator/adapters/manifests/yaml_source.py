"""Reads YAML text into plain data that remembers on which line each field stands.

Not PyYAML's own constructor: it drops the lines, keeps the last of two equal keys in silence, makes dates and
numbers of base 60, and lets a few aliases grow without bound.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from aoai_operator.core.api.fault import Path, field_name

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MAX_NODES = 200_000
_MAX_DEPTH = 60
_MAX_NESTING = 200
_TAB = re.compile(" *\t")
_QUOTED = re.compile(r"'([^'\n]*)'|\"([^\"\n]*)\"")


@dataclass(frozen=True, slots=True)
class YamlFault:
    """What is wrong with the text at a line; never quotes the text."""

    line: int
    field: str
    message: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Document:
    """One document: its data, the line of each field by the field's path, and what is wrong with it."""

    data: Any
    lines: dict[str, int]
    faults: tuple[YamlFault, ...]


def documents(text: str) -> Iterator[Document | YamlFault]:
    """Yield the documents of a text that are not empty, and at the first error of syntax that error, as the last."""
    try:
        if (deep := _too_deep(text)) is not None:
            yield YamlFault(deep, "", f"is nested deeper than {_MAX_NESTING} levels")
            return
        for node in yaml.compose_all(text, Loader=_LOADER):
            if node is not None and node.tag != "tag:yaml.org,2002:null":
                yield _document(node)
    except yaml.YAMLError as error:
        yield _syntax(error, text)


def _too_deep(text: str) -> int | None:
    """Return the line at which nesting exceeds what the composer, which recurses, can take; None if nowhere."""
    depth = 0
    with contextlib.suppress(yaml.YAMLError):  # the composer tells of it, after the documents before it
        for event in yaml.parse(text, Loader=_LOADER):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > _MAX_NESTING:
                    return _line(event)
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
    return None


def _syntax(error: yaml.YAMLError, text: str) -> YamlFault:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be read"
    # The parser quotes names of anchors, aliases and tags: an unquoted key that begins with * or ! would be among them.
    safe = _QUOTED.sub(_masked, str(problem)).replace("\n", " ")
    if mark is None:
        return YamlFault(1, "", f"is not YAML: {safe}", "")
    # The parser may stop at the line after the one with the tab.
    near = text.split("\n")[max(0, mark.line - 1) : mark.line + 1]
    tab = any(_TAB.match(line) for line in near)
    mend = "indent with spaces, not with tabs" if tab else "quote texts that begin with a special character"
    return YamlFault(mark.line + 1, "", f"is not YAML: {safe} (column {mark.column + 1})", mend)


def _masked(quoted: re.Match[str]) -> str:
    inside = quoted[1] or quoted[2] or ""
    return quoted[0] if len(inside) < 2 or inside.startswith("<") else "'...'"


def _document(node: yaml.Node) -> Document:
    reader = _Reader()
    data = reader.read(node, ())
    return Document(data, reader.lines, tuple(reader.faults))


@dataclass(slots=True)
class _Reader:
    lines: dict[str, int] = field(default_factory=dict)
    faults: list[YamlFault] = field(default_factory=list)
    nodes: int = 0

    def read(self, node: yaml.Node, path: Path) -> Any:
        """Return the data of a node, and note the line where it stands."""
        self.nodes += 1
        self.lines.setdefault(field_name(path), _line(node))
        if self.nodes > _MAX_NODES or len(path) > _MAX_DEPTH:
            if not any(fault.field == "" for fault in self.faults):
                self.faults.append(YamlFault(_line(node), "", "is too large or refers to itself"))
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*path, index)) for index, item in enumerate(node.value)]
        return _scalar(node)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        made: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key, value in node.value:
            line = _line(key)
            if key.tag == "tag:yaml.org,2002:merge":
                self._merge(value, path, merged)
            elif not isinstance(key, yaml.ScalarNode) or not isinstance(_scalar(key), str):
                self.faults.append(YamlFault(line, field_name(path), "has a name that is not a text", "quote the name"))
            elif key.value in made:
                where = field_name((*path, key.value))
                first = self.lines.get(where, line)
                self.faults.append(YamlFault(line, where, f"is given twice; first on line {first}", "remove one"))
            else:
                self.lines[field_name((*path, key.value))] = line
                made[key.value] = self.read(value, (*path, key.value))
        return merged | made

    def _merge(self, value: yaml.Node, path: Path, merged: dict[str, Any]) -> None:
        for source in value.value if isinstance(value, yaml.SequenceNode) else (value,):
            data = self.read(source, path)
            if isinstance(data, dict):
                merged.update({name: one for name, one in data.items() if name not in merged})
            else:
                line = _line(source)
                self.faults.append(YamlFault(line, field_name(path), "merges what is not a map", "name a map"))


def _line(thing: yaml.Node | yaml.Event) -> int:
    return 1 if thing.start_mark is None else thing.start_mark.line + 1


def _scalar(node: Any) -> Any:
    """Return null, true or false, a decimal number or the text. Everything else that YAML 1.1 knows stays a text."""
    text = str(node.value)
    match node.tag.rpartition(":")[2]:
        case "null":
            return None
        case "bool":
            return text.lower() in ("yes", "true", "on")
        case "int" if re.fullmatch("[-+]?(0|[1-9][0-9]{0,30})", text):
            return int(text)
        case "float" if re.fullmatch(r"[-+]?[0-9]{1,30}(\.[0-9]*)?([eE][-+]?[0-9]{1,2})?", text):
            return float(text)
    return text
