"""Request headers that Azure counts, and the response headers it sends."""

from __future__ import annotations

from collections.abc import Iterable

from aoai_operator.simulator.faults import BadHeaders

MAX_CUSTOM_HEADERS = 10
"""Azure OpenAI quotas and limits: "Maximum number of custom headers in API requests"; one more answers 431."""

_STANDARD_NAMES = (
    "accept accept-charset accept-encoding accept-language api-key authorization cache-control connection "
    "content-encoding content-length content-type cookie date expect forwarded from host if-match if-modified-since "
    "if-none-match if-unmodified-since keep-alive max-forwards origin pragma prefer proxy-connection range referer te "
    "trailer transfer-encoding upgrade user-agent via warning"
)

_STANDARD = frozenset(_STANDARD_NAMES.split())


def count_custom(names: Iterable[str], *, sdk: bool) -> int:
    """How many request headers are custom.

    The documentation does not define the word: here it is every name (lower case) that is not in the HTTP standards
    (RFC 9110 to 9112, RFC 7239, cookies) nor a credential. ``sdk`` says whether the ``x-stainless-*`` headers count,
    nine or ten of which the official SDKs send by themselves.
    """
    custom = [name for name in names if name not in _STANDARD]
    return len(custom) if sdk else sum(1 for name in custom if not name.startswith("x-stainless-"))


def answer_headers(*, region: str, deployment: str, request_id: str, api_version: str, took_ms: int) -> dict[str, str]:
    """Headers of every answer of the model endpoint [response dumps in community reports]."""
    headers = {
        "apim-request-id": request_id,
        "x-request-id": request_id,
        "x-ms-region": region,
        "x-envoy-upstream-service-time": str(took_ms),
        "strict-transport-security": "max-age=31536000; includeSubDomains; preload",
        "x-content-type-options": "nosniff",
    }
    if deployment:
        headers["x-ms-deployment-name"] = deployment
        headers["x-ms-rai-invoked"] = "true"
        headers["azureml-model-session"] = "v20260801-1-simulated"
    if api_version:
        headers["api-supported-versions"] = api_version
    return headers


def spoil(headers: dict[str, str], fault: BadHeaders) -> None:
    """Make the rate-limit headers of an answer unusable, in the way that the fault says."""
    limits = [name for name in headers if name.startswith("x-ratelimit-")]
    retries = [name for name in headers if name.startswith("retry-after")]
    if fault.form == "missing":
        for name in (*limits, *retries):
            del headers[name]
        return
    if fault.form == "garbage":
        headers.update(dict.fromkeys((*limits, *retries), "soon; perhaps"))
        return
    for name in limits:
        if "-remaining-" in name:
            headers[name] = "-1" if fault.form == "minus_one" else "0"
    if fault.form == "minus_one":
        for name in retries:
            del headers[name]
