"""Lets tests in subfolders import the helpers that lie here, and plan with the default prices."""

import os

# What was measured on this machine must not decide about what tests expect; processes that tests
# start inherit it.
os.environ["NESTED_FAD_TF_COSTS"] = "default"
