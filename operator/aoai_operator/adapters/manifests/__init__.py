"""Manifest files: YAML text in, resources and Secrets out, and file, line, field and mend of each fault."""

from aoai_operator.adapters.manifests.located import Manifests, Origin
from aoai_operator.adapters.manifests.reading import read_manifests

__all__ = ["Manifests", "Origin", "read_manifests"]
