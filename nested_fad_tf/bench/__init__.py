"""Benchmarks: public models, and what a training step of theirs costs plain and rewritten."""
