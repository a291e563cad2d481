"""The command line: `nested-fad-tf`, the same as `python -m nested_fad_tf`."""
