"""The engine: runs, their logs, their readers, and the one who keeps them all."""
