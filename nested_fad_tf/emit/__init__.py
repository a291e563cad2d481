"""Writes: the only package that changes graphs."""
