"""The store that a test of the contract is tried on."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from contract.store_cases import SHARED, STORES
from midstream_server.stores.base import RunStore


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RunStore]:
    """Each kind of store in turn, open and empty."""
    async with STORES[request.param](tmp_path) as each:
        yield each


@pytest.fixture(params=[name for name in STORES if name not in SHARED])
async def exclusive_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RunStore]:
    """Each kind of store that one process has for itself, open and empty."""
    async with STORES[request.param](tmp_path) as each:
        yield each
