"""Measurements: speed against peers, quality of step caching, scale. log.md has the results."""
