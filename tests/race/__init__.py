"""Seeded races: the engine on a loop whose time is virtual and whose order is chosen, held against a small oracle.

usage: python -m race [--seeds 10000] [--first N] [--replicas 1] [--failovers]
"""
