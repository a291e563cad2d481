"""Names of the versions of a step; read from the command line before TensorFlow is imported.

A version is "plain", a peer of `nested_fad_tf.bench.catalog`, or a rewrite: a strategy, with other
options behind it as in "auto:budget=0.3" or "forward_ad:precision=int4:min_bytes=1024".
"""

from __future__ import annotations

from nested_fad_tf.bench import catalog
from nested_fad_tf.bench.settings import split
from nested_fad_tf.errors import OptionsError
from nested_fad_tf.options import Options

PLAIN = "plain"


def is_rewrite(version: str) -> bool:
    """Whether a version is made by this package.

    Args:
        version: Its name.
    """
    return version != PLAIN and version not in catalog.PEERS


def options(version: str, fuse: str = "auto") -> Options:
    """The options of a rewrite.

    Args:
        version: Its name.
        fuse: How its groups run, if the name doesn't say.

    Returns:
        The options; a rewrite that fails raises, for a benchmark must not measure the fallback.

    Raises:
        OptionsError: If there is no such strategy or option, or a value is not allowed.

    Examples:
        >>> options("auto:budget=0.3").budget
        0.3
    """
    try:
        strategy, settings = split(version)
    except ValueError as error:
        raise OptionsError(str(error)) from error
    values = {"strategy": strategy, "fuse": fuse, "on_error": "raise", **settings}
    return Options.from_dict(values, source=repr(version))
