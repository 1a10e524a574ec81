"""Writes of the leader, and of nobody else."""

from __future__ import annotations

from aoai_operator.adapters.kube.lease import Election
from aoai_operator.core.names import PoolKey
from aoai_operator.ports import JsonObject, KubeApi, Resource


class Fenced:
    """Implements `KubeApi` by another one.

    It writes only while this replica leads, and gives a write up before another replica can lead: NotLeadingError.
    """

    def __init__(self, api: KubeApi, election: Election) -> None:
        """Take the API server and the election."""
        self._api = api
        self._election = election
        self.list = api.list
        self.get = api.get
        self.serves = api.serves

    async def apply(self, resource: Resource, body: JsonObject, *, status: bool = False, part: str = "") -> JsonObject:
        """Apply as the leader."""
        async with self._election.writing():
            return await self._api.apply(resource, body, status=status, part=part)

    async def create(self, resource: Resource, body: JsonObject) -> JsonObject:
        """Create as the leader."""
        async with self._election.writing():
            return await self._api.create(resource, body)

    async def replace(self, resource: Resource, body: JsonObject) -> JsonObject:
        """Replace as the leader."""
        async with self._election.writing():
            return await self._api.replace(resource, body)

    async def delete(self, resource: Resource, key: PoolKey) -> None:
        """Delete as the leader."""
        async with self._election.writing():
            await self._api.delete(resource, key)
