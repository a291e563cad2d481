"""Where the packages lie; everything else about the distribution is in setup.cfg.

Presets and default prices are kept in configs/ at the top of the repository, where users look for
them, and are installed as the package nested_fad_tf.configs; setup.cfg has no words for "all that
is found, and two more".
"""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["nested_fad_tf", "nested_fad_tf.*"]),
        "nested_fad_tf.configs",
        "nested_fad_tf.configs.costs",
    ],
    package_dir={"nested_fad_tf.configs": "configs"},
)
