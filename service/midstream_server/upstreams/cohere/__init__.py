"""The dialect `cohere`."""

from midstream_server.upstreams.cohere.dialect import CohereDialect

__all__ = ["CohereDialect"]
