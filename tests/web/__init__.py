"""The Envoy configuration and the examples of clients/web, run against a real server. `make web`."""
