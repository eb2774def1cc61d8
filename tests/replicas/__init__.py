"""Several replicas on one Valkey, as processes: what is promised of them, shown and measured.

usage: python -m replicas [SCENARIO …] [--seed N] [--trials 100] [--kills 20]
"""
