"""What tenants may ask of Azure OpenAI: inference, by POST, of a named model.

Our credential can do more there (files, stored answers, batches, fine-tuning, deleting any of them), and Azure OpenAI
has no access control below the resource: what is not listed here ends at the gateway.
Source: Azure OpenAI REST API reference, data plane, inference.
"""

from __future__ import annotations

INFERENCE = frozenset(
    {
        "audio/speech",
        "audio/transcriptions",
        "audio/translations",
        "chat/completions",
        "completions",
        "embeddings",
        "images/edits",
        "images/generations",
        "responses",
    }
)
"""Paths below `/openai/deployments/<model>/` and `/openai/v1/`."""
