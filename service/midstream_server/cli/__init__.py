"""The commands of `midstream`."""
