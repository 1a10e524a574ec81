"""`aoai-operator inject`: manifests in, the same manifests with a sidecar in each workload out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from aoai_operator.adapters.manifests.roundtrip import NotYamlError, read, write
from aoai_operator.core.sidecar import InjectError, Sidecar, inject


class InjectFailedError(Exception):
    """Some document cannot be injected; the message names it, and the field."""


def inject_all(texts: Iterable[tuple[str, str]], sidecar: Sidecar) -> str:
    """Return all documents, in their order.

    Args:
        texts: the name of each source, and its text.
        sidecar: what is put in.

    Raises:
        InjectFailedError: see there.
    """
    made = []
    for source, text in texts:
        number = 0
        try:
            for number, document in enumerate(read(text), start=1):
                made.append(_injected(document, f"{source}: document {number}", sidecar))
        except NotYamlError as error:
            raise InjectFailedError(f"{source}: after document {number}: {error}") from None
    return write(made)


def _injected(document: Any, where: str, sidecar: Sidecar) -> Any:
    try:
        return inject(document, sidecar)
    except InjectError as error:
        name = _name(document)
        raise InjectFailedError(f"{where}{name}: {error.field or 'it'} {error}") from None


def _name(document: Any) -> str:
    if not isinstance(document, dict):
        return ""
    metadata = document.get("metadata")
    name = metadata.get("name", "") if isinstance(metadata, dict) else ""
    return f" ({document.get('kind', '')} {name})".replace(" )", ")")
