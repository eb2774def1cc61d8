"""Benchmarks: `python -m bench`. Ratios to a baseline in the same run; absolute times of noisy machines mean little."""
