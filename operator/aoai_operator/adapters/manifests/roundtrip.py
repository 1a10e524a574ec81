"""Reads manifests to write them again: what is not understood must come out as it went in. Comments are lost."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml


class NotYamlError(ValueError):
    """A text is no YAML, or gives a field twice; the message says where, and quotes nothing."""


class _Loader(yaml.SafeLoader):
    """Leaves dates, and numbers of base 60, the texts that they are to Kubernetes."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        for name in names:
            if names.count(name) > 1:
                raise NotYamlError(f"line {node.start_mark.line + 1}: a field is given twice")
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if not tag.endswith((":timestamp", ":int", ":value"))]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"[-+]?(0|[1-9][0-9_]*|0[0-7]+|0x[0-9a-fA-F]+|0b[01]+)$"),
    list("-+0123456789"),
)


class _Dumper(yaml.SafeDumper):
    """Writes no aliases, and texts of several lines as blocks."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


_ODD_BREAK = re.compile("[\r\x85\u2028\u2029]")
"""What YAML 1.1 takes for line breaks, and reads as another one, unless it is escaped."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if _ODD_BREAK.search(text) else "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def read(text: str) -> Iterator[Any]:
    """Yield the documents of a text that are not empty, in their order.

    Raises:
        NotYamlError: see there; documents before it have been yielded.
    """
    try:
        for document in yaml.load_all(text, Loader=_Loader):
            if document is not None:
                yield document
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise NotYamlError(f"{where}is not YAML: {getattr(error, 'problem', None) or 'cannot be read'}") from None
    except RecursionError:
        raise NotYamlError("is nested too deeply") from None


def write(documents: list[Any]) -> str:
    """Return the documents as one text."""
    return "---\n".join(
        yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1 << 20)
        for document in documents
    )
