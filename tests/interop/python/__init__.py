"""The Python runners. `cases` says what happens, once for both kinds; `client_caller` and `raw_caller` do it."""
