"""Runs the command line: python -m nested_fad_tf."""

from nested_fad_tf.cli.main import run

if __name__ == "__main__":
    run()
