"""The gRPC face: requests in, bytes of events and resources out, errors as statuses."""
