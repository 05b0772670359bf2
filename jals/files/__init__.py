"""Factors in files, and files that are written atomically."""
