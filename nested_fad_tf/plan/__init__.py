"""Decides what is kept and what is recomputed; touches no graph."""
