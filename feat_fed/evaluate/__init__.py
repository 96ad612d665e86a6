"""Measuring clips against clips."""
