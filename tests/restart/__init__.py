"""How long a server takes to come up again after one run of an hour, cut off by a crash, beside very many short ones.

usage: python -m restart [--appends 180000] [--runs 100000] [--limit 10]
"""
