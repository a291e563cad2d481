"""Real models on data that comes with Python packages, for `nested-fad-tf train` and tests."""
