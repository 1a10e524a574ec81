"""Models that a pool names but does not have, told one by one.

The API server checks the same by CEL rules, which cannot say which endpoint they mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from aoai_operator.core.api.fault import FieldFault, Path
from aoai_operator.core.api.pool import AOAIBackendPoolSpec
from aoai_operator.core.api.wording import nearest


def unknown_models(spec: AOAIBackendPoolSpec) -> Iterator[FieldFault]:
    """Yield a fault for each model that fallbacks, deployments or discovery name, and that is not in `spec.models`."""
    known = [model.name for model in spec.models]
    for i, model in enumerate(spec.models):
        for j, name in enumerate(model.fallback_models):
            if name not in known:
                path: Path = ("spec", "models", i, "fallbackModels", j)
                message = f"the fallback model {name} of {model.name} is not in spec.models"
                yield FieldFault.at(path, message, _mend(name, known))
    for i, endpoint in enumerate(spec.endpoints):
        for j, deployment in enumerate(endpoint.deployments):
            if deployment.model not in known:
                path = ("spec", "endpoints", i, "deployments", j, "model")
                message = f"the model {deployment.model} of the endpoint {endpoint.name} is not in spec.models"
                yield FieldFault.at(path, message, _mend(deployment.model, known))
    for i, found in enumerate(spec.discovery.azure.models if spec.discovery else ()):
        if found.model not in known:
            path = ("spec", "discovery", "azure", "models", i, "model")
            message = f"the model {found.model} is not in spec.models"
            yield FieldFault.at(path, message, _mend(found.model, known))


def _mend(name: str, known: Sequence[str]) -> str:
    return nearest(name, known) or f"add it there, or name one of {', '.join(known)}"
