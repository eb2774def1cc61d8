"""A real server, killed with SIGKILL at random moments under load; what readers saw, held against what is left.

usage: python -m crash [--kills 200] [--seed N]
"""
