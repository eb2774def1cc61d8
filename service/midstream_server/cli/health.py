"""`midstream health`: the standard health check of gRPC, as a command."""

from midstream_server.cli import terminal
from midstream_server.cli.endpoint import Endpoint
from midstream_server.cli.outcome import silence


def probe(endpoint: Endpoint, service: str, timeout: float, tls_name: str | None = None) -> tuple[bool, str]:
    """Asks once; whether it serves, and the answer in a word or a sentence."""
    import grpc
    from grpc_health.v1 import health_pb2

    server, credentials = endpoint.address, endpoint.credentials()
    options = [("grpc.ssl_target_name_override", tls_name)] if tls_name else []
    with grpc.secure_channel(server, credentials, options) if credentials else grpc.insecure_channel(server) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = check(health_pb2.HealthCheckRequest(service=service), timeout=timeout)
        except grpc.RpcError as error:
            code = error.code()
            if code == grpc.StatusCode.NOT_FOUND:
                return False, f"{server} knows no service '{service}'"
            if code == grpc.StatusCode.UNIMPLEMENTED:
                return False, f"{server} speaks gRPC but has no health service"
            if "refused" in (error.details() or ""):
                return False, f"nothing listens at {server}"
            return False, silence(endpoint)
    return answer.status == health_pb2.HealthCheckResponse.SERVING, str(
        health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    )


def health(endpoint: Endpoint, service: str, timeout: float, *, tls_name: str | None, json_output: bool) -> int:
    """Prints the answer; 0 if it serves."""
    server = endpoint.address
    serving, answer = probe(endpoint, service, timeout, tls_name)
    if json_output:
        terminal.print_json({"server": server, "service": service, "serving": serving, "answer": answer})
    elif serving:
        terminal.answers().line(answer)
    else:
        terminal.complain(answer if " " in answer else f"{server} is {answer}")
    return terminal.OK if serving else terminal.FAILED
