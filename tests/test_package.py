"""The package's front: public names, and what importing it costs."""

import subprocess
import sys

import pytest

import nested_fad_tf as nfad


def test_importing_the_package_does_not_import_tensorflow():
    code = "import sys, nested_fad_tf; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_every_public_name_is_there_and_listed():
    for name in nfad.__all__:
        assert getattr(nfad, name).__name__.split(".")[-1] == name
    assert set(nfad.__all__) <= set(dir(nfad))


def test_importing_its_module_does_not_hide_a_function():
    import nested_fad_tf.functions

    assert nfad.function is nested_fad_tf.functions.function
    assert callable(nfad.function)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'functoin'"):
        nfad.functoin  # noqa: B018
