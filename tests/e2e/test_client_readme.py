"""The examples in the Python client's README work as they stand."""

import asyncio
import re
import sys
from pathlib import Path

import pytest

from rpc.served import simulated_service

README = Path(__file__).parents[2] / "clients" / "python" / "README.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", README.read_text("utf-8"), re.MULTILINE | re.DOTALL)

EXPECTED = (
    r"1 2 3 .*\n\[[0-9a-f-]{36}: 8\d characters kept, state 5\]\n",
    r"1 2 3 4 5 6\nkept: '1 2 3 4 5 6.*'\n",
    r"CANCELLED 1.*\n\d+ 1.*\n(\d+ .*\n)*[0-9a-f-]{36} CANCELLED\n",
    r'role: ROLE_ASSISTANT\nparts \{\n  text \{\n    text: "1 2 3 .* 40"\n(.*\n)*',
    r"no such model: .+\n",
)
"""What they print when the model counts."""


def test_there_is_an_expectation_for_each_example():
    """A new example needs one."""
    assert len(EXAMPLES) == len(EXPECTED)


@pytest.mark.parametrize("number", range(len(EXPECTED)))
async def test_an_example_works(number: int):
    """Against the real server; only the address and the model are others."""
    async with simulated_service() as service:
        code = EXAMPLES[number].replace("127.0.0.1:50051", service.target)
        code = code.replace("local/smollm2", "sim/count-1000-100")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-c", code),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await process.communicate()

    assert (process.returncode, errors.decode()) == (0, "")
    assert re.fullmatch(EXPECTED[number], output.decode()), output.decode()
