"""`midstream`, and `python -m midstream_server`."""

from midstream_server.cli.commands import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
