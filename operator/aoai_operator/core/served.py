"""What a gateway serves, and how to call it: the line and the snippets that `aoai-operator local` prints when ready."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aoai_operator.core.api import AOAIBackendPoolStatus
from aoai_operator.core.credentials import RESERVED
from aoai_operator.core.names import PoolKey
from aoai_operator.core.table import RoutingTable


@dataclass(frozen=True, slots=True)
class ServedPool:
    """One pool at a gateway's address.

    Attributes:
        name: "namespace/name".
        url: its own address, to which the paths of Azure OpenAI are appended.
        endpoints: how many it has.
        usable: how many of them can take requests now.
        models: what clients may ask for.
        key: where the key of one of its tenants is, "anonymous" when it needs none, None when it has no tenant yet.
        open: whether it takes callers without a key.
    """

    name: str
    url: str
    endpoints: int
    usable: int
    models: tuple[str, ...]
    key: str | None
    open: bool

    def __str__(self) -> str:
        endpoints = f"{self.endpoints} endpoint{'' if self.endpoints == 1 else 's'}"
        if self.usable < self.endpoints:
            endpoints = f"{self.usable} of {endpoints}"
        nobody = "" if self.open or self.key else ", no tenant yet"
        return f"{self.name} ({endpoints}, models {', '.join(self.models)}{nobody})"


def served_pools(
    address: str,
    tables: Mapping[PoolKey, RoutingTable],
    statuses: Mapping[PoolKey, AOAIBackendPoolStatus],
    *,
    tls_port: int | None = None,
) -> list[ServedPool]:
    """Return the pools that answer at `address`, such as "http://127.0.0.1:8080"; those with a certificate by HTTPS."""
    found = []
    for key, table in sorted(tables.items()):
        usable, _, _ = statuses[key].healthy_endpoints.partition("/") if key in statuses else ("0", "", "")
        keys = [
            f"entry {ref.key} of the Secret {ref.namespace}/{ref.name}" for t in table.tenants for ref in t.api_keys
        ]
        found.append(
            ServedPool(
                name=str(key),
                url=_url(address, table, tls_port),
                endpoints=len(table.endpoints),
                usable=int(usable or 0),
                models=tuple(model.name for model in table.models),
                key=keys[0] if keys else None,
                open=not table.auth_required,
            )
        )
    return found


def _url(address: str, table: RoutingTable, tls_port: int | None) -> str:
    if table.tls_secret and table.hostnames and tls_port is not None:
        return f"https://{table.hostnames[0]}:{tls_port}"
    return f"{address}/{table.key}"


def ready_line(address: str, pools: Sequence[ServedPool]) -> str:
    """Return the one line that says what is served where."""
    return f"ready: {address}  pools: {', '.join(map(str, pools))}"


def how_to_call(pools: Sequence[ServedPool]) -> str:
    """Return a curl command and an SDK snippet for the first pool that somebody may call; empty when there is none."""
    pool = next((p for p in pools if p.open or p.key), None)
    if pool is None:
        return ""
    key = RESERVED if pool.open else "$AOAI_KEY"
    python_key = repr(RESERVED) if pool.open else 'os.environ["AOAI_KEY"]'
    model = pool.models[0]
    whence = "" if pool.open else f"\n  export AOAI_KEY=...   # {pool.key}"
    return f"""{whence}
  curl {pool.url}/openai/v1/chat/completions -H "api-key: {key}" -H "content-type: application/json" \\
    -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}'

  from openai import OpenAI
  client = OpenAI(base_url="{pool.url}/openai/v1", api_key={python_key})
  client.chat.completions.create(model="{model}", messages=[{{"role": "user", "content": "Hello"}}])
""".lstrip("\n")
