"""The ports: what the loops need of the outside, as small Protocols that adapters implement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from aoai_operator.core.accesslog import Answer, Attempt
from aoai_operator.core.audience import Audience
from aoai_operator.core.discovered import AzureSource, FoundAccount, FoundDeployment, Retirement
from aoai_operator.core.envoy.packed import PackedSnapshot
from aoai_operator.core.envoy.snapshot import TypeUrl
from aoai_operator.core.health import ProbeTarget, Sample
from aoai_operator.core.names import PoolKey
from aoai_operator.core.observed import SigningKeys
from aoai_operator.core.proxies import Proxy
from aoai_operator.core.quota.deciding import Ask, Decision, Rest, Shared
from aoai_operator.core.quota.limits import Amount, Limits
from aoai_operator.core.quota.pool import Pool
from aoai_operator.core.quota.usage import Usage
from aoai_operator.core.secret import SecretValue
from aoai_operator.core.table import Identity, TokenIssuer


class UnavailableError(Exception):
    """Nobody can answer now; the message is one sentence for people."""


class QuotaStore(Protocol):
    """Counts what tenants used, outside of this process. All calls but the first two may raise UnavailableError."""

    def limit(self, limits: Mapping[PoolKey, Limits]) -> None:
        """Take the limits of all tenants."""
        ...

    def share(self, pools: Mapping[Shared, Pool]) -> None:
        """Take how pools' models are shared; the others are not."""
        ...

    async def ask(
        self, ask: Ask, *, request_id: str = "", rests: Sequence[Rest] = (), owed: Amount | None = None
    ) -> Decision | None:
        """Let a request in, or not; before that take back the rests of leases, and count what is owed.

        Returns:
            None where the request is over by now: its log line came first.
        """
        ...

    async def settle(
        self, grant: int, draw: int, estimate: Amount, used: Amount | None, *, request_id: str = ""
    ) -> int | None:
        """Replace what was estimated of one request by what it used: see `Ledger.settle`.

        Args:
            grant: 0: the one by which `request_id` was let in.
            draw, estimate, used: see there.
            request_id: that of the log line.

        Returns:
            The tokens that were charged for it before; None where it is no news.
        """
        ...

    async def usage(self, tenant: PoolKey) -> Usage | None:
        """Return what counts of a tenant; None for one without limits."""
        ...

    async def touched(self) -> set[PoolKey]:
        """Return some tenants of whom something was counted since anybody asked for them."""
        ...

    async def begun(self) -> bool:
        """Tell whether it knows what was used: not before anything was, and not after it was emptied."""
        ...

    async def restore(self, usages: Mapping[PoolKey, Usage]) -> None:
        """Count what was used before, where it does not know it, and let it decide from now on."""
        ...


class Prober(Protocol):
    """Looks whether an endpoint is alive, without spending tokens. Both calls always answer, and in time."""

    async def endpoint(self, target: ProbeTarget) -> Sample:
        """Probe network, TLS, credential and resource: what concerns every deployment of the endpoint."""
        ...

    async def deployment(self, target: ProbeTarget, name: str) -> Sample:
        """Probe whether one deployment exists behind it."""
        ...


class ResolveError(Exception):
    """A name does not resolve; the message is one sentence for people."""


class Resolver(Protocol):
    """Finds the addresses of a host name."""

    async def resolve(self, host: str) -> tuple[str, ...]:
        """Return its IP addresses, at least one, in a stable order.

        Raises:
            ResolveError: there is none, or no answer in time.
        """
        ...


class IssuerError(Exception):
    """The keys of an issuer cannot be had; the message is a sentence for people, without a full stop."""


class Issuers(Protocol):
    """Finds the keys with which issuers sign tokens."""

    async def keys(self, issuer: TokenIssuer) -> SigningKeys:
        """Return an issuer's name in its tokens, and its public keys.

        Raises:
            IssuerError: they cannot be had now.
        """
        ...


@dataclass(frozen=True, slots=True)
class Token:
    """A token of Entra ID, or a key of an account. Times are seconds of the Unix epoch.

    Attributes:
        value: the token.
        until: when it is over; infinity: never.
        renew_at: when Entra ID wants to be asked for another one; None: it does not say.
        other: the other key of the account.
    """

    value: SecretValue
    until: float
    renew_at: float | None = None
    other: SecretValue | None = None


class GrantError(Exception):
    """Azure does not give a token or keys; the message is what it said, without a full stop and without any secret."""


class TokenSource(Protocol):
    """Asks Entra ID for tokens, or Azure Resource Manager for the keys of accounts."""

    async def token(self, identity: Identity, credential: SecretValue | None) -> Token:
        """Return a token of an identity, made now or not long ago.

        Args:
            identity: as whom it is asked for.
            credential: what `identity.credential` refers to; None: nothing, or it is not there.

        Raises:
            GrantError: there is none now.
        """
        ...


class ReadingError(Exception):
    """Azure Resource Manager, or Entra ID before it, did not give what was asked for.

    The message says what and why, without a full stop and without any secret. `wait` is for how many seconds it wants
    to be left alone; None: it does not say. `denied`: it did not take the token.
    """

    def __init__(self, message: str, *, wait: float | None = None, denied: bool = False) -> None:
        """Take what went wrong."""
        super().__init__(message)
        self.wait = wait
        self.denied = denied


class AzureSession(Protocol):
    """Reads accounts of Azure OpenAI. Each of its calls may raise `ReadingError`."""

    async def accounts(self, subscription: str, group: str) -> tuple[FoundAccount, ...]:
        """Return the accounts of a subscription, or of one of its resource groups, without what is in them."""
        ...

    async def account(self, account: FoundAccount) -> FoundAccount | None:
        """Return one as it is now; None: it is gone."""
        ...

    async def deployments(self, account: FoundAccount) -> tuple[FoundDeployment, ...]:
        """Return what is deployed in one."""
        ...

    async def retirements(self, subscription: str, location: str) -> tuple[Retirement, ...]:
        """Return which models retire in a region."""
        ...


class AzureReader(Protocol):
    """Reads Azure Resource Manager."""

    def open(self, source: AzureSource, credential: SecretValue | None) -> AbstractAsyncContextManager[AzureSession]:
        """Return what reads for a source; `credential` is what its identity proves itself with, if anything."""
        ...


class LogSink(Protocol):
    """Takes the access log, in batches, in the order in which Envoy wrote it. Neither call may block or raise."""

    def answers(self, batch: Sequence[Answer]) -> None:
        """Take requests that were answered."""
        ...

    def attempts(self, batch: Sequence[Attempt]) -> None:
        """Take attempts that failed."""
        ...


class Identify(Protocol):
    """Finds out what a proxy may have, before it is told anything."""

    async def __call__(self, context: Any, claimed: Proxy, /) -> Audience:
        """Return the audience to which the caller of a gRPC service belongs.

        Ends the call when it has not proven to be what it claims.

        Args:
            context: gRPC's, of the call.
            claimed: the `node.id` and `node.cluster` that it sent.
        """
        ...


class ReviewError(Exception):
    """Whether a token is good cannot be said now; the message is one sentence for people."""


class TokenReviewer(Protocol):
    """Judges service-account tokens."""

    async def __call__(self, token: str, caller: str, /) -> str | None:
        """Return the user name, "system:serviceaccount:<namespace>:<name>"; None if the token is not good for us.

        `caller` is the address that shows it, without a port.

        Raises:
            ReviewError: who judges does not answer, or is asked too much, by this caller or altogether.
        """
        ...


class SnapshotSource(Protocol):
    """Keeps what the Envoys of each gateway should have."""

    def current(self, gateway: str) -> PackedSnapshot | None:
        """Return the gateway's resources, None before it is known what they are."""
        ...

    def watch(self, changed: Callable[[str], None]) -> None:
        """Call `changed` with the gateway's name whenever its resources changed."""
        ...


class XdsObserver(Protocol):
    """Hears what the connected Envoys say about what they are sent. No call may block or raise."""

    def connected(self, proxy: Proxy) -> None:
        """A stream was opened."""
        ...

    def disconnected(self, proxy: Proxy) -> None:
        """It ended."""
        ...

    def acked(self, proxy: Proxy, type_url: TypeUrl, versions: Mapping[str, str]) -> None:
        """The Envoy holds these versions by name; an empty version is a removal."""
        ...

    def nacked(self, proxy: Proxy, type_url: TypeUrl, versions: Mapping[str, str], message: str) -> None:
        """The Envoy refuses these versions. Its message may quote the resource, secrets included."""
        ...

    def settled(self, proxy: Proxy, version: str) -> None:
        """The Envoy has accepted all that it wants of the snapshot of this version."""
        ...


JsonObject = dict[str, Any]
"""An object of the API server's, as its JSON says it."""


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of objects on the API server, by where its objects are found.

    Attributes:
        group: empty for the core group.
        confidential: whether an object, or the server's words about one, may hold a credential.
    """

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    confidential: bool = False

    @property
    def api_version(self) -> str:
        """The `apiVersion` of its objects."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


class KubeError(Exception):
    """The API server refuses a call, or does not answer it.

    Attributes:
        status: the HTTP status; 0 if there was no answer.
        reason: the server's word for it (metav1.StatusReason), such as Conflict; Unreachable or Timeout are ours.
        message: a sentence for people, the server's if it gave one; never with a credential in it.
    """

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{message} ({reason})")
        self.status = status
        self.reason = reason
        self.message = message

    @property
    def retryable(self) -> bool:
        """Whether the same call may succeed later, without anything being mended."""
        return self.status in _RETRYABLE or self.status >= _SERVER_ERROR


_RETRYABLE = frozenset({0, 408, 429})
_SERVER_ERROR = 500


class KubeApi(Protocol):
    """Reads and writes objects of the Kubernetes API server. Every call ends in time.

    Objects are plain dicts, with apiVersion and kind, and without metadata.managedFields. Any call may raise KubeError.
    """

    async def list(self, resource: Resource, namespace: str | None = None, labels: str = "") -> tuple[JsonObject, ...]:
        """Return all objects of a kind, in a namespace or in all of them, that a label selector selects."""
        ...

    async def get(self, resource: Resource, key: PoolKey) -> JsonObject | None:
        """Return an object by its namespace and name, None if there is none."""
        ...

    async def apply(self, resource: Resource, body: JsonObject, *, status: bool = False, part: str = "") -> JsonObject:
        """Make an object what the body says, by server-side apply; return it.

        Args:
            resource: its kind.
            body: all fields that we own; those that we owned and that it leaves out are removed.
            status: whether the body gives the status, which has a field manager of its own, and nothing else.
            part: a part of the fields that has a field manager of its own: the others are left as they are.
        """
        ...

    async def create(self, resource: Resource, body: JsonObject) -> JsonObject:
        """Create an object; return it as the server made it."""
        ...

    async def replace(self, resource: Resource, body: JsonObject) -> JsonObject:
        """Replace an object; with metadata.resourceVersion, only if it still has that version, else 409 Conflict."""
        ...

    async def delete(self, resource: Resource, key: PoolKey) -> None:
        """Delete an object; it is no error if there is none."""
        ...

    async def serves(self, resource: Resource) -> bool:
        """Return whether the server knows the kind: whether its CRD is there."""
        ...


class KubeObserver(Protocol):
    """Hears of every call to the API server. It may not block or raise."""

    def called(self, *, verb: str, resource: str, result: str, seconds: float) -> None:
        """A call has ended.

        Args:
            verb: as in RBAC.
            resource: the plural of the kind.
            result: the HTTP status; Unreachable, Timeout or Cancelled if there was none.
            seconds: how long it took.
        """
        ...
