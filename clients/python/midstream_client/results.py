"""What calls return, where it is not a message of the contract."""

from dataclasses import dataclass

from midstream.v1 import generation_service_pb2, run_pb2
from midstream_client.enums import CancelOutcome


@dataclass(frozen=True, slots=True)
class CancelResult:
    """What became of a cancel, and the run with its partial message."""

    outcome: CancelOutcome
    run: run_pb2.Run


def cancel_result_of(response: generation_service_pb2.CancelResponse) -> CancelResult:
    """The response as a value."""
    return CancelResult(outcome=CancelOutcome(response.outcome), run=response.run)
