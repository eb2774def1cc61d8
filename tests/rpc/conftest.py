"""The server that most tests call."""

from collections.abc import AsyncIterator

import pytest

from rpc.served import Service, simulated_service


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    """A server over `memory:`."""
    async with simulated_service() as made:
        yield made
