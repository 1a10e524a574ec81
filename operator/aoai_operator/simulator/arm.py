"""Azure Resource Manager, as far as it tells of Azure OpenAI: accounts, deployments, keys, models, quota. Pure.

Bodies have the shape that ``azure-mgmt-cognitiveservices`` reads. Nothing but keys can be changed here.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from urllib.parse import parse_qs

from aoai_operator.simulator.entra import EntraState
from aoai_operator.simulator.region import RegionState

Json = dict[str, Any]
ArmFault = Literal["cut", "empty", "garbage", "huge", "wrong_types", "throttle"] | int
"""What is wrong with every answer: its form, a 429 with a wait, or an HTTP status."""

MANAGEMENT = "https://management.azure.com"
_PROVIDER = "/providers/Microsoft.CognitiveServices"
_HUGE = 64 * 1024 * 1024
_Where = Mapping[str, str]
_Query = Mapping[str, list[str]]


@dataclass(frozen=True, kw_only=True)
class AccountDeployment:
    """A deployment as the management API tells it. ``rate_limits``: by key, renewal period in seconds and count."""

    name: str
    model: str
    version: str = "2024-11-20"
    sku: str = "Standard"
    capacity: int = 10
    provisioning_state: str = "Succeeded"
    rate_limits: Sequence[tuple[str, int, int]] = ()
    content_filter: str = "Microsoft.DefaultV2"
    spillover: str = ""
    current_capacity: int | None = None


@dataclass(frozen=True, kw_only=True)
class Account:
    """An account (resource) of Azure OpenAI or Azure AI Foundry.

    ``region`` is a simulated region whose address, keys and deployments it has; without one they are given here.
    """

    name: str
    subscription: str
    resource_group: str = "rg"
    location: str = "eastus"
    kind: str = "OpenAI"
    tags: Mapping[str, str] = field(default_factory=dict)
    region: RegionState | None = None
    endpoint: str = ""
    deployments: Sequence[AccountDeployment] = ()
    provisioning_state: str = "Succeeded"
    local_auth: bool = True
    public: bool = True

    @property
    def group(self) -> str:
        """The path of its resource group."""
        return f"/subscriptions/{self.subscription}/resourceGroups/{self.resource_group}"

    @property
    def id(self) -> str:
        """Its resource id."""
        return f"{self.group}{_PROVIDER}/accounts/{self.name}"


@dataclass(frozen=True, slots=True)
class ArmReply:
    """What to send."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class ArmState:
    """The accounts, and who may see them.

    Attributes:
        accounts: by resource id; may be changed at any time.
        catalogue, usages: what is answered for the models and the quota of a location.
        readers: client ids that have the role Reader; None: everybody.
        page: how many items a page of a list has.
        fault: see ``ArmFault``.
        calls: how often each kind of call was made.
    """

    def __init__(self, accounts: Sequence[Account], *, entra: EntraState | None = None, page: int = 100) -> None:
        """Take the accounts, the directory whose tokens open it (None: it asks for none), and the length of pages."""
        self.accounts = {account.id.lower(): account for account in accounts}
        self.catalogue: dict[str, list[Json]] = {}
        self.usages: dict[str, list[Json]] = {}
        self.readers: frozenset[str] | None = None
        self.page = page
        self.fault: ArmFault | None = None
        self.calls: Counter[str] = Counter()
        self._entra = entra
        self._keys: dict[str, list[str]] = {}

    def answer(self, method: str, path: str, query: str, authorization: str, body: bytes, *, base: str) -> ArmReply:
        """Answer a request. ``base`` is the URL of ARM itself, for the links from page to page."""
        for kind, verb, pattern, handler in self._routes():
            if verb == method and (found := pattern.fullmatch(path)):
                self.calls[kind] += 1
                barred = self._faulty() or self._refused(authorization)
                return barred or self._spoilt(handler(found.groupdict(), parse_qs(query), body, base + path))
        self.calls["other"] += 1
        return _error(404, "InvalidResourceType", "The resource type could not be found.")

    def change(self, account: Account, **changes: Any) -> None:
        """Exchange an account for one with changes."""
        self.accounts[account.id.lower()] = replace(account, **changes)

    def keys(self, account: Account) -> list[str]:
        """Return its two keys."""
        if account.region is not None:
            return [*account.region.keys, *account.region.keys, "", ""][:2]
        return self._keys.setdefault(account.id, [f"key1-of-{account.name}", f"key2-of-{account.name}"])

    def _routes(self) -> Iterator[tuple[str, str, re.Pattern[str], Callable[..., Json | ArmReply]]]:
        subscription, group = "/subscriptions/(?P<subscription>[^/]+)", "/resourceGroups/(?P<group>[^/]+)"
        account = f"{subscription}{group}{_PROVIDER}/accounts/(?P<account>[^/]+)"
        place = f"{subscription}{_PROVIDER}/locations/(?P<location>[^/]+)"
        for kind, verb, pattern, handler in (
            ("accounts", "GET", f"{subscription}{_PROVIDER}/accounts", self._list),
            ("accounts", "GET", f"{subscription}{group}{_PROVIDER}/accounts", self._list),
            ("account", "GET", account, self._one),
            ("deployments", "GET", f"{account}/deployments", self._deployments),
            ("keys", "POST", f"{account}/listKeys", self._list_keys),
            ("regenerate", "POST", f"{account}/regenerateKey", self._regenerate),
            ("models", "GET", f"{place}/models", self._models),
            ("usages", "GET", f"{place}/usages", self._usages),
        ):
            yield kind, verb, re.compile(pattern, re.IGNORECASE), handler

    def _refused(self, authorization: str) -> ArmReply | None:
        if self._entra is None:
            return None
        scheme, _, token = authorization.partition(" ")
        principal = self._entra.principal(token, (MANAGEMENT,)) if scheme.lower() == "bearer" else None
        if principal is None:
            return _error(401, "InvalidAuthenticationToken", "The access token is invalid.")
        if self.readers is not None and principal.client_id not in self.readers:
            message = f"The client '{principal.client_id}' does not have authorization to perform this action."
            return _error(403, "AuthorizationFailed", message)
        return None

    def _faulty(self) -> ArmReply | None:
        if self.fault == "throttle":
            return _error(429, "TooManyRequests", "The request is being throttled.", {"retry-after": "1"})
        if isinstance(self.fault, int):
            return _error(self.fault, "InternalServerError", f"Simulated status {self.fault}.")
        return None

    def _spoilt(self, answer: Json | ArmReply) -> ArmReply:
        if isinstance(answer, ArmReply):
            return answer
        body = json.dumps(answer).encode()
        match self.fault:
            case "cut":
                body = body[: len(body) // 2]
            case "empty":
                body = b""
            case "garbage":
                body = b"<html>Service Unavailable</html>"
            case "huge":
                body = json.dumps({**answer, "padding": "x" * _HUGE}).encode()
            case "wrong_types":
                body = json.dumps(_wrong(answer)).encode()
        return ArmReply(200, body)

    def _found(self, where: _Where) -> Account | None:
        group = f"/subscriptions/{where['subscription']}/resourceGroups/{where['group']}"
        return self.accounts.get(f"{group}{_PROVIDER}/accounts/{where['account']}".lower())

    def _list(self, where: _Where, query: _Query, _body: bytes, url: str) -> Json | ArmReply:
        mine = [a for a in self.accounts.values() if a.subscription.lower() == where["subscription"].lower()]
        if not mine:
            message = f"The subscription '{where['subscription']}' could not be found."
            return _error(404, "SubscriptionNotFound", message)
        group = where.get("group", "").lower()
        chosen = [_account(a) for a in mine if group in ("", a.resource_group.lower())]
        return self._paged(chosen, query, url)

    def _one(self, where: _Where, _query: object, _body: bytes, _url: str) -> Json | ArmReply:
        account = self._found(where)
        return _account(account) if account else _gone(where)

    def _deployments(self, where: _Where, query: _Query, _body: bytes, url: str) -> Json | ArmReply:
        account = self._found(where)
        return (
            self._paged([_deployment(account, d) for d in deployed(account)], query, url) if account else _gone(where)
        )

    def _list_keys(self, where: _Where, _query: object, _body: bytes, _url: str) -> Json | ArmReply:
        account = self._found(where)
        if account is None:
            return _gone(where)
        if not account.local_auth:
            return _error(400, "BadRequest", "Failed to list key. disableLocalAuth is set to be true")
        return dict(zip(("key1", "key2"), self.keys(account), strict=True))

    def _regenerate(self, where: _Where, _query: object, body: bytes, _url: str) -> Json | ArmReply:
        account = self._found(where)
        if account is None:
            return _gone(where)
        keys = self.keys(account)
        which = 1 if json.loads(body or b"{}").get("keyName") == "Key2" else 0
        keys[which] = f"key{which + 1}-of-{account.name}-{self.calls['regenerate']}"
        if account.region is not None:
            account.region.keys = tuple(keys)
        self._keys[account.id] = keys
        return {"key1": keys[0], "key2": keys[1]}

    def _models(self, where: _Where, query: _Query, _body: bytes, url: str) -> Json:
        return self._paged(self.catalogue.get(where["location"], []), query, url)

    def _usages(self, where: _Where, query: _Query, _body: bytes, url: str) -> Json:
        return self._paged(self.usages.get(where["location"], []), query, url)

    def _paged(self, items: Sequence[Json], query: _Query, url: str) -> Json:
        start = int(query.get("$skiptoken", ["0"])[0])
        answer: Json = {"value": list(items[start : start + self.page])}
        if start + self.page < len(items):
            version = query.get("api-version", [""])[0]
            answer["nextLink"] = f"{url}?api-version={version}&$skiptoken={start + self.page}"
        return answer


def deployed(account: Account) -> Iterator[AccountDeployment]:
    """Yield what is deployed in an account: what its region serves, and what is given besides."""
    for state in account.region.deployments.values() if account.region else ():
        settings = state.settings
        tokens, requests = settings.tokens_per_minute or 0, settings.requests_per_minute or 0
        limits = [("request", 10, max(1, requests // 6))] if requests else []
        limits += [("token", 60, tokens)] if tokens else []
        yield AccountDeployment(
            name=settings.name,
            model=settings.model,
            sku=settings.type,
            capacity=max(1, tokens // 1000),
            rate_limits=limits,
        )
    yield from account.deployments


def _account(account: Account) -> Json:
    endpoint = account.endpoint or f"https://{account.name}.openai.azure.com/"
    return {
        "id": account.id,
        "name": account.name,
        "type": "Microsoft.CognitiveServices/accounts",
        "location": account.location,
        "kind": account.kind,
        "sku": {"name": "S0"},
        "tags": dict(account.tags),
        "properties": {
            "endpoint": endpoint,
            "endpoints": {"OpenAI Language Model Instance API": endpoint},
            "customSubDomainName": account.name,
            "provisioningState": account.provisioning_state,
            "disableLocalAuth": not account.local_auth,
            "publicNetworkAccess": "Enabled" if account.public else "Disabled",
        },
    }


def _deployment(account: Account, deployment: AccountDeployment) -> Json:
    limits = [{"key": key, "renewalPeriod": seconds, "count": count} for key, seconds, count in deployment.rate_limits]
    optional = {
        "spilloverDeploymentName": deployment.spillover or None,
        "currentCapacity": deployment.current_capacity,
    }
    return {
        "id": f"{account.id}/deployments/{deployment.name}",
        "name": deployment.name,
        "type": "Microsoft.CognitiveServices/accounts/deployments",
        "sku": {"name": deployment.sku, "capacity": deployment.capacity},
        "properties": {
            "provisioningState": deployment.provisioning_state,
            "model": {"format": "OpenAI", "name": deployment.model, "version": deployment.version},
            "rateLimits": limits,
            "raiPolicyName": deployment.content_filter,
            "versionUpgradeOption": "OnceNewDefaultVersionAvailable",
            **{name: value for name, value in optional.items() if value is not None},
        },
    }


def _gone(where: _Where) -> ArmReply:
    name = where["account"]
    return _error(404, "ResourceNotFound", f"The Resource 'Microsoft.CognitiveServices/accounts/{name}' was not found.")


def _error(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> ArmReply:
    return ArmReply(status, json.dumps({"error": {"code": code, "message": message}}).encode(), headers or {})


def _wrong(value: Any) -> Any:
    """Return the same with texts for lists, numbers for texts and lists for maps, below the first level."""
    if isinstance(value, dict):
        return {key: _wrong(item) if key in ("value", "properties") else 7 for key, item in value.items()}
    if isinstance(value, list):
        return [_wrong(item) for item in value]
    return value
