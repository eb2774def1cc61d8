"""Bytes as frames and values: what stands between a socket and a dialect's parser."""
