"""What tests of traffic share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from support.entra import Entra


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def entra() -> AsyncIterator[Entra]:
    """Entra ID, as it runs in Azure."""
    async with Entra().serving() as running:
        yield running
