"""Where runs are kept: one port, and an implementation per technology."""
