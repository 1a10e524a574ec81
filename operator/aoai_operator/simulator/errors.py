"""Azure's error bodies. Each function names where the text was seen; ``docs/simulator.md`` has the table."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Literal

_FILTER_DETAIL = {
    "hate": {"filtered": False, "severity": "safe"},
    "jailbreak": {"detected": False, "filtered": False},
    "self_harm": {"filtered": False, "severity": "safe"},
    "sexual": {"filtered": False, "severity": "safe"},
    "violence": {"filtered": True, "severity": "medium"},
}


class AzureError(Exception):
    """An answer that is not a success: status, JSON body and the headers that only this error has."""

    def __init__(self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        super().__init__(f"status {status}")
        self.status = status
        self.body = json.dumps(body).encode()
        self.headers = dict(headers or {})


def _error(http_status: int, code: str | None, message: str, **more: Any) -> AzureError:
    return AzureError(http_status, {"error": {"code": code, "message": message, **more}})


def resource_not_found() -> AzureError:
    """Unknown path, or one without the ``api-version`` it needs [Microsoft Q&A: "Resource not found"]."""
    return _error(404, "404", "Resource not found")


def deployment_not_found() -> AzureError:
    """Unknown deployment [many community reports]."""
    return _error(
        404,
        "DeploymentNotFound",
        "The API deployment for this resource does not exist. If you created the deployment within the last "
        "5 minutes, please wait a moment and try again.",
    )


def model_not_found(model: str) -> AzureError:
    """Unknown id under ``/models`` [OpenAI API reference: error code model_not_found]."""
    return _error(
        404, "model_not_found", f"The model '{model}' does not exist", param="model", type="invalid_request_error"
    )


def access_denied() -> AzureError:
    """Missing or wrong credential [Azure AI services documentation: Authenticate requests]."""
    return _error(
        401,
        "401",
        "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for an "
        "active subscription and use a correct regional API endpoint for your resource.",
    )


def token_refused() -> AzureError:
    """A token of Entra ID that is none, is over, or is for something else [response reported by the community]."""
    message = (
        "Unauthorized. Access token is missing, invalid, audience is incorrect (https://cognitiveservices.azure.com), "
        "or have expired."
    )
    return _error(401, "401", message)


def permission_denied(principal: str, operation: str) -> AzureError:
    """A token of somebody without the role [Azure OpenAI documentation: Role-based access control]."""
    message = f"The principal `{principal}` lacks the required data action to perform `{operation}` operation."
    return _error(401, "PermissionDenied", message)


def bad_request(message: str, *, param: str | None = None, code: str | None = None) -> AzureError:
    """A request the model endpoint itself rejects [OpenAI API reference: invalid_request_error]."""
    return _error(400, code, message, param=param, type="invalid_request_error")


def malformed_json() -> AzureError:
    """A body which is not a JSON object [OpenAI API error text for an unparsable body]."""
    return bad_request("We could not parse the JSON body of your request. The API expects a JSON payload.")


def operation_not_supported(operation: str, model: str) -> AzureError:
    """A deployment of another kind of model [community reports of OperationNotSupported]."""
    return _error(
        400,
        "OperationNotSupported",
        f"The {operation} operation does not work with the specified model, {model}. Please choose different model and "
        "try again.",
    )


def context_length(limit: int, requested: int) -> AzureError:
    """Prompt and output do not fit [OpenAI API error code context_length_exceeded]."""
    return bad_request(
        f"This model's maximum context length is {limit} tokens. However, you requested {requested} tokens. Please "
        "reduce the length of the messages or completion.",
        param="messages",
        code="context_length_exceeded",
    )


def content_filter() -> AzureError:
    """The prompt was filtered [Azure OpenAI documentation: Content filtering, error handling].

    The specification calls the inner object ``inner_error``, SDKs also see ``innererror``: both are here.
    """
    inner = {"code": "ResponsibleAIPolicyViolation", "content_filter_result": _FILTER_DETAIL}
    return _error(
        400,
        "content_filter",
        "The response was filtered due to the prompt triggering Azure OpenAI's content management policy. Please "
        "modify your prompt and retry. To learn more about our content filtering policies please read our "
        "documentation: https://go.microsoft.com/fwlink/?linkid=2198766",
        param="prompt",
        type=None,
        status=400,
        innererror=inner,
        inner_error={"code": inner["code"], "content_filter_results": _FILTER_DETAIL},
    )


def too_many_headers() -> AzureError:
    """More than 10 custom request headers [Azure OpenAI quotas and limits: maximum number of custom headers]."""
    return _error(431, "431", "Request Header Fields Too Large: at most 10 custom headers are accepted.")


def retry_headers(seconds: float) -> dict[str, str]:
    """``retry-after`` in whole seconds, rounded up, and ``retry-after-ms`` [Provisioned throughput documentation]."""
    return {"retry-after": str(max(1, math.ceil(seconds))), "retry-after-ms": str(max(1, math.ceil(seconds * 1000)))}


def rate_limited(
    limit: Literal["token", "call"],
    *,
    operation_id: str,
    api_version: str,
    deployment: str,
    model: str,
    region: str,
    wait: str,
) -> AzureError:
    """Quota of a standard deployment; without the retry headers, which ``retry_headers`` makes.

    Older text with an ``api-version`` [langchain #12986, dbchatprov2 #2]; newer text on the v1 surface [dyad #1849].
    """
    if api_version:
        return _error(
            429,
            "429",
            f"Requests to the {operation_id} Operation under Azure OpenAI API version {api_version} have exceeded "
            f"{limit} rate limit of your current OpenAI S0 pricing tier. Please retry after {wait} seconds. Please go "
            "here: https://aka.ms/oai/quotaincrease if you would like to further increase the default rate limit.",
        )
    return _error(
        429,
        "RateLimitReached",
        f"Your requests to {deployment} for {model} in {region} have exceeded the {limit} rate limit for your current "
        f"AIServices S0 pricing tier. This request was for {operation_id}. Please retry after {wait} seconds. "
        "To increase your default rate limit, visit: https://aka.ms/oai/quotaincrease.",
    )


def provisioned_busy() -> AzureError:
    """A provisioned deployment is at 100 % of utilisation [Provisioned throughput documentation]."""
    return _error(429, "429", "The service is temporarily unable to process your request. Please try again later.")


def high_demand() -> AzureError:
    """Capacity of the region, whatever the quota [Azure OpenAI performance documentation: system capacity 429]."""
    return _error(
        429,
        "429",
        "The system is currently experiencing high demand and cannot process your request. Please try again later.",
    )


_FORCED: dict[int, tuple[str, str]] = {
    403: (
        "403",
        "Your resource has been temporarily blocked because we detected behavior that may violate our content policy.",
    ),
    408: ("Timeout", "The operation was timeout."),
    424: ("0301", "Model is busy, please retry later."),
    500: ("InternalServerError", "The server had an error while processing your request. Sorry about that!"),
    502: ("BadGateway", "The upstream service returned an invalid response."),
    503: ("ServiceUnavailable", "The service is temporarily unable to process your request. Please try again later."),
    504: ("GatewayTimeout", "The request timed out. Please try again later."),
}


def forced(status: int) -> AzureError:
    """The body that goes with a status which a fault forces."""
    if status == 401:
        return access_denied()
    if status == 404:
        return deployment_not_found()
    code, message = _FORCED.get(status, (str(status), f"Simulated status {status}."))
    return _error(status, code, message)
