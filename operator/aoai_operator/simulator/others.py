"""Bodies of embeddings, images and the list of models [Azure OpenAI REST API reference]."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import struct
from collections.abc import Iterable, Mapping
from typing import Any

from aoai_operator.simulator.errors import model_not_found
from aoai_operator.simulator.model import Deployment
from aoai_operator.simulator.prompt import Prompt

_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="  # 1x1 PNG


def embeddings_body(prompt: Prompt, body: Mapping[str, Any], deployment: Deployment) -> bytes:
    """One unit vector for each input, as floats, or as base64 of little-endian 32-bit floats."""
    given = body["input"]
    inputs = given if isinstance(given, list) and given and not isinstance(given[0], int) else [given]
    asked = body.get("dimensions")
    size = asked if isinstance(asked, int) and 0 < asked <= 8192 else deployment.dimensions
    encoded = body.get("encoding_format") == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _vector(json.dumps(item), size, encoded=encoded)}
        for index, item in enumerate(inputs)
    ]
    usage = {"prompt_tokens": prompt.tokens, "total_tokens": prompt.tokens}
    return json.dumps({"object": "list", "data": data, "model": deployment.model, "usage": usage}).encode()


def _vector(text: str, size: int, *, encoded: bool) -> str | list[float]:
    raw = hashlib.shake_128(text.encode()).digest(size)
    length = math.sqrt(sum((byte - 127.5) ** 2 for byte in raw))
    vector = [(byte - 127.5) / length for byte in raw]
    return base64.b64encode(struct.pack(f"<{size}f", *vector)).decode() if encoded else vector


def images_body(body: Mapping[str, Any], created: int) -> bytes:
    """``n`` images, each a PNG of one pixel in ``b64_json``."""
    n = body.get("n")
    count = n if isinstance(n, int) and 0 < n <= 10 else 1
    images = [{"b64_json": _PIXEL, "revised_prompt": str(body["prompt"])} for _ in range(count)]
    return json.dumps({"created": created, "data": images}).encode()


def models_body(deployments: Iterable[Deployment], wanted: str) -> bytes:
    """The base models of the resource, or the one ``wanted``. Azure lists models here, not deployments.

    Raises ``AzureError`` 404 for an unknown model.
    """
    models = {d.model: _model(d) for d in deployments}
    if not wanted:
        return json.dumps({"object": "list", "data": list(models.values())}).encode()
    if wanted not in models:
        raise model_not_found(wanted)
    return json.dumps(models[wanted]).encode()


def _model(deployment: Deployment) -> dict[str, Any]:
    kind = deployment.kind
    return {
        "id": deployment.model,
        "object": "model",
        "created": 1_700_000_000,
        "created_at": 1_700_000_000,
        "owned_by": "azure",
        "status": "succeeded",
        "lifecycle_status": "generally-available",
        "capabilities": {
            "chat_completion": kind == "chat",
            "completion": kind == "chat",
            "embeddings": kind == "embeddings",
            "fine_tune": False,
            "inference": True,
        },
    }
