"""From a request's path to what it asks for [Azure OpenAI REST API reference; v1 API lifecycle]."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote

from aoai_operator.simulator.model import Kind

OPERATIONS = ("chat/completions", "completions", "embeddings", "images/generations", "responses")

KIND_OF: dict[str, Kind] = {
    "chat/completions": "chat",
    "completions": "chat",
    "responses": "chat",
    "embeddings": "embeddings",
    "images/generations": "images",
}

OPERATION_IDS = {
    "chat/completions": "ChatCompletions_Create",
    "completions": "Completions_Create",
    "embeddings": "Embeddings_Create",
    "images/generations": "ImageGenerations_Create",
    "responses": "Responses_Create",
}

_OPERATION_WORDS = {
    "chat/completions": "chatCompletion",
    "completions": "completion",
    "responses": "responses",
    "embeddings": "embeddings",
    "images/generations": "imageGeneration",
}


@dataclass(frozen=True, slots=True)
class Route:
    """A known path. ``deployment`` is empty where the body names it (v1); ``model`` is the id in ``/models/<id>``."""

    operation: str
    api_version: str
    deployment: str = ""
    model: str = ""


def operation_word(operation: str) -> str:
    """The operation as Azure's error messages call it."""
    return _OPERATION_WORDS[operation]


def takes_stream_options(api_version: str) -> bool:
    """Whether ``stream_options`` is known: v1 and from 2024-09-01-preview [azure-sdk-for-java #40998].

    Older versions answer 400 [azure-rest-api-specs #29157, openai-python #1469].
    """
    return not api_version or api_version >= "2024-09-01"


def parse_route(method: str, path: str, query: str) -> Route | None:
    """The route of a request, or None for what Azure answers "Resource not found".

    The dated surface needs ``api-version``; v1 does not.
    """
    if path.startswith("/openai/v1/"):
        return _v1(method, path[len("/openai/v1/") :])
    version = _api_version(query)
    if not version:
        return None
    if path.startswith("/openai/deployments/"):
        name, _, operation = path[len("/openai/deployments/") :].partition("/")
        if method == "POST" and name and operation in OPERATIONS and operation != "responses":
            return Route(operation, version, deployment=unquote(name))
        return None
    if path == "/openai/responses" and method == "POST":
        return Route("responses", version)
    return _models(method, path[len("/openai/") :], version) if path.startswith("/openai/") else None


def _v1(method: str, rest: str) -> Route | None:
    if method == "POST" and rest in OPERATIONS:
        return Route(rest, "")
    return _models(method, rest, "")


def _models(method: str, rest: str, version: str) -> Route | None:
    if method != "GET":
        return None
    if rest == "models":
        return Route("models", version)
    prefix, _, model = rest.partition("/")
    if prefix == "models" and model:
        return Route("models", version, model=unquote(model))
    return None


def _api_version(query: str) -> str:
    if "api-version" not in query:
        return ""
    return dict(parse_qsl(query)).get("api-version", "")
