"""`midstream health`: the standard health check of gRPC, as a command."""

from midstream_server.cli import terminal


def probe(server: str, service: str, timeout: float) -> tuple[bool, str]:
    """Asks once; whether it serves, and the answer in a word or a sentence."""
    import grpc
    from grpc_health.v1 import health_pb2

    with grpc.insecure_channel(server) as channel:
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
            return False, f"{server} does not answer"
    return answer.status == health_pb2.HealthCheckResponse.SERVING, str(
        health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    )


def health(server: str, service: str, timeout: float, as_json: bool) -> int:
    """Prints the answer; 0 if it serves."""
    serving, answer = probe(server, service, timeout)
    if as_json:
        terminal.print_json({"server": server, "service": service, "serving": serving, "answer": answer})
    elif serving:
        terminal.answers().line(answer)
    else:
        terminal.complain(answer if " " in answer else f"{server} is {answer}")
    return terminal.OK if serving else terminal.FAILED
