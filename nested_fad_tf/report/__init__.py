"""Tells: reports and measurements."""
