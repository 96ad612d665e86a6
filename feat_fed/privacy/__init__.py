"""Differential privacy: what a mechanism spends, and what a site remembers of it."""
