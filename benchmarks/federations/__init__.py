"""What ``benchmarks/federation.py`` compares: our federation and two others on the same arrays."""
