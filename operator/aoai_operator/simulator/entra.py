"""A directory of Entra ID as applications meet it: tokens for client credentials, and what they then are good for.

Pure: forms in, answers out, and a clock that is given. The sockets are in ``entra_edge``.
"""

from __future__ import annotations

import base64
import hmac
import itertools
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.x509 import Certificate, load_pem_x509_certificate

RESOURCES = ("https://cognitiveservices.azure.com", "https://ai.azure.com", "https://management.azure.com")
"""What tokens are issued for; the first two open Azure OpenAI."""
DATA_PLANE = RESOURCES[:2]
EXCHANGE = "api://AzureADTokenExchange"
_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

Answer = tuple[int, dict[str, Any]]
"""An HTTP status, and the JSON of its body."""


@dataclass(frozen=True, kw_only=True)
class Federated:
    """A federated identity credential: whose tokens prove that somebody is the application."""

    issuer: str
    subject: str
    audience: str = EXCHANGE


@dataclass(frozen=True, kw_only=True)
class Application:
    """An application, or a managed identity when it has no credential: ``client_id`` is how it is named."""

    client_id: str
    secrets: Sequence[str] = field(default=(), repr=False)
    certificates: Sequence[str] = ()
    """PEM, without private keys."""
    federated: Sequence[Federated] = ()
    openai_user: bool = True
    """Whether it has the role Cognitive Services OpenAI User on the simulated resources."""


_REFUSALS = {
    70003: (400, "unsupported_grant_type", "The app requested an unsupported grant type."),
    90002: (400, "invalid_request", "Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID."),
    90033: (503, "temporarily_unavailable", "A transient error has occurred. Please try again."),
    700016: (400, "unauthorized_client", "Application with identifier '{client}' was not found in the directory."),
    1002012: (
        400,
        "invalid_scope",
        (
            "The provided value for scope {scope} is not valid. Client credential flows must have a scope value with "
            "/.default suffixed to the resource identifier."
        ),
    ),
    500011: (400, "invalid_resource", "The resource principal named {resource} was not found in the tenant."),
    50027: (401, "invalid_client", "JWT token is invalid or malformed."),
    700024: (401, "invalid_client", "Client assertion is not within its valid time range."),
    700027: (401, "invalid_client", "The certificate used to sign the client assertion is not registered."),
    700213: (
        401,
        "invalid_client",
        "No matching federated identity record found for presented assertion subject '{subject}'.",
    ),
    7000215: (
        401,
        "invalid_client",
        (
            "Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, "
            "not the client secret ID, for a secret added to app '{client}'."
        ),
    ),
    7000218: (
        401,
        "invalid_client",
        "The request body must contain the following parameter: 'client_assertion' or 'client_secret'.",
    ),
}
"""By code: the HTTP status, the error of OAuth 2.0, and the text [Microsoft Entra authentication error codes]."""


class _RefusedError(Exception):
    """One of `_REFUSALS`; `status` replaces its own."""

    def __init__(self, code: int, *, status: int | None = None, **values: str) -> None:
        self.code = code
        own, self.error, text = _REFUSALS[code]
        self.status, self.text = status or own, text.format(**values)
        super().__init__(self.text)


class EntraState:
    """One directory. ``lifetime``: the seconds that a new token lasts; ``fault``: an HTTP status instead of tokens.

    ``asked`` counts the requests by how they proved who asks, client id and scope.
    """

    def __init__(
        self,
        tenant_id: str,
        applications: Sequence[Application],
        *,
        now: Callable[[], float],
        lifetime: int = 3600,
    ) -> None:
        """Take the directory's id, who is in it (the first is the system-assigned identity of machines), and a clock.

        It gives seconds of the Unix epoch.
        """
        self._now = now
        self.tenant_id = tenant_id
        self.applications = {application.client_id: application for application in applications}
        self.lifetime = lifetime
        self.fault: int | None = None
        self.asked: Counter[tuple[str, str, str]] = Counter()
        self.issued: list[str] = []
        """Every token, in order."""
        self.revoked_before = 0
        self._numbers = itertools.count(1)
        self._key: RSAPrivateKey = generate_private_key(public_exponent=65537, key_size=2048)

    def revoke(self) -> None:
        """Make all tokens useless that were issued so far."""
        self.revoked_before = len(self.issued)

    def token(self, tenant: str, form: Mapping[str, str], *, endpoint: str) -> Answer:
        """Answer a POST to ``/{tenant}/oauth2/v2.0/token``. ``endpoint`` is its URL, for whom assertions are made."""
        now = self._now()
        try:
            kind, resource = self._judged(tenant, form, now, endpoint)
        except _RefusedError as refused:
            self.asked["refused", form.get("client_id", ""), form.get("scope", "")] += 1
            return refused.status, _error(refused, now)
        self.asked[kind, form["client_id"], form["scope"]] += 1
        if self.fault is not None:
            return self.fault, _error(_RefusedError(90033, status=self.fault), now)
        value = self._issue(form["client_id"], resource, now)
        told = {"expires_in": self.lifetime, "ext_expires_in": self.lifetime, "access_token": value}
        return 200, {"token_type": "Bearer", **told}

    def managed(self, query: Mapping[str, str], *, metadata: bool) -> Answer:
        """Answer a GET of ``/metadata/identity/oauth2/token``. ``metadata``: whether it had ``Metadata: true``."""
        if not metadata:
            return 400, {"error": "invalid_request", "error_description": "Required metadata header not specified"}
        client = query.get("client_id") or next(iter(self.applications), "")
        resource = query.get("resource", "").rstrip("/")
        self.asked["managed", client, resource] += 1
        if self.fault is not None:
            return self.fault, {"error": "server_error", "error_description": "Failed to refresh token"}
        if client not in self.applications:
            return 400, {"error": "invalid_request", "error_description": "Identity not found"}
        if resource not in RESOURCES:
            return 400, {"error": "invalid_resource", "error_description": f"AADSTS500011: no resource {resource}"}
        now = self._now()
        value, until = self._issue(client, resource, now), str(int(now) + self.lifetime)
        times = {"expires_in": str(self.lifetime), "expires_on": until, "not_before": str(int(now))}
        return 200, {
            "access_token": value, "client_id": client, "resource": resource, "token_type": "Bearer", **times
        }  # fmt: skip

    def principal(self, token: str, resources: Sequence[str] = DATA_PLANE) -> Application | None:
        """Return whose token for any of these resources this is; None when it is none, is over, or was revoked."""
        try:
            claims = jwt.decode(
                token,
                self._key.public_key(),
                algorithms=["RS256"],
                audience=list(resources),
                options={"verify_exp": False, "verify_nbf": False, "verify_iat": False},
            )
        except jwt.InvalidTokenError:
            return None
        if claims["exp"] <= self._now() or int(claims["uti"]) <= self.revoked_before:
            return None
        return self.applications.get(claims["appid"])

    def _judged(self, tenant: str, form: Mapping[str, str], now: float, endpoint: str) -> tuple[str, str]:
        """Return how it proved who it is, and the resource that it asks for."""
        if tenant != self.tenant_id:
            raise _RefusedError(90002, tenant=tenant)
        if form.get("grant_type") != "client_credentials":
            raise _RefusedError(70003)
        client = form.get("client_id", "")
        application = self.applications.get(client)
        if application is None:
            raise _RefusedError(700016, client=client)
        kind = self._proven(application, form, now, endpoint)
        scope = form.get("scope", "")
        if not scope.endswith("/.default"):
            raise _RefusedError(1002012, scope=scope)
        resource = scope.removesuffix("/.default").rstrip("/")
        if resource not in RESOURCES:
            raise _RefusedError(500011, resource=resource)
        return kind, resource

    def _proven(self, application: Application, form: Mapping[str, str], now: float, endpoint: str) -> str:
        given = form.get("client_secret")
        if given is not None:
            if any(hmac.compare_digest(given.encode(), one.encode()) for one in application.secrets):
                return "secret"
            raise _RefusedError(7000215, client=application.client_id)
        if form.get("client_assertion_type") != _ASSERTION:
            raise _RefusedError(7000218)
        return _by_assertion(application, form.get("client_assertion", ""), now, endpoint)

    def _issue(self, client: str, resource: str, now: float) -> str:
        number = next(self._numbers)
        claims = {"aud": resource, "iss": f"https://sts.windows.net/{self.tenant_id}/", "appid": client}
        times = {"iat": int(now), "nbf": int(now), "exp": int(now) + self.lifetime}
        whole = {**claims, **times, "tid": self.tenant_id, "oid": client, "uti": str(number)}
        self.issued.append(jwt.encode(whole, self._key, algorithm="RS256", headers={"kid": "simulated"}))
        return self.issued[-1]


def _by_assertion(application: Application, assertion: str, now: float, endpoint: str) -> str:
    """Judge a JWT: signed with the key of a registered certificate, or another issuer's of a registered subject.

    The signature of another issuer's is not looked at: the simulator does not know its keys.
    """
    try:
        header = jwt.get_unverified_header(assertion)
        claims = jwt.decode(assertion, options={"verify_signature": False})
    except jwt.InvalidTokenError:
        raise _RefusedError(50027) from None
    if "x5t" in header or "x5t#S256" in header:
        for pem in application.certificates:
            if _signed_with(load_pem_x509_certificate(pem.encode()), assertion, header, endpoint):
                return "certificate"
        raise _RefusedError(700027)
    audiences = claims.get("aud")
    for known in application.federated:
        named = (claims.get("iss"), claims.get("sub")) == (known.issuer, known.subject)
        if named and known.audience in (audiences if isinstance(audiences, list) else [audiences]):
            if claims.get("exp", 0) <= now:
                raise _RefusedError(700024)
            return "federated"
    raise _RefusedError(700213, subject=str(claims.get("sub")))


def _signed_with(certificate: Certificate, assertion: str, header: Mapping[str, Any], endpoint: str) -> bool:
    prints = {"x5t": SHA1(), "x5t#S256": SHA256()}  # noqa: S303 - the name by which Entra ID knows a certificate
    named = {name: _text(certificate.fingerprint(kind)) for name, kind in prints.items()}
    key = certificate.public_key()
    if not isinstance(key, RSAPublicKey) or not any(
        str(header.get(name)).rstrip("=") == value for name, value in named.items()
    ):
        return False
    try:
        jwt.decode(assertion, key, algorithms=["RS256", "PS256"], audience=endpoint)
    except jwt.InvalidTokenError:
        return False
    return True


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _error(refused: _RefusedError, now: float) -> dict[str, Any]:
    at = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    trace, correlation = f"00000000-0000-4000-8000-{int(now):012x}", f"00000000-0000-4000-9000-{int(now):012x}"
    ending = f" Trace ID: {trace} Correlation ID: {correlation} Timestamp: {at}"
    return {
        "error": refused.error,
        "error_description": f"AADSTS{refused.code}: {refused.text}{ending}",
        "error_codes": [refused.code],
        "timestamp": at,
        "trace_id": trace,
        "correlation_id": correlation,
        "error_uri": f"https://login.microsoftonline.com/error?code={refused.code}",
    }


def as_body(answer: Answer) -> bytes:
    """Return the JSON of an answer."""
    return json.dumps(answer[1]).encode()
