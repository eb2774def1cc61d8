"""The Midstream server: LLM generations over gRPC that can be stopped midstream."""
