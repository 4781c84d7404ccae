"""Figures with intervals: avg@k, pass@k, bootstrap, paired tests."""
