"""Reads traced graphs: nodes, values, storage, roles."""
