"""The exceptions users may see; all of them derive from `RewriteError`."""


class RewriteError(Exception):
    """A function could not be rewritten, or what was asked of the rewriter makes no sense."""


class OptionsError(RewriteError, ValueError):
    """An option has a value that is not allowed; the message names the allowed ones."""


class CostsError(RewriteError, ValueError):
    """A file of measured costs is broken; the message names the file and what is wrong in it."""


class VerificationError(RewriteError):
    """The rewritten function and the original disagree on the same inputs."""


class UnsupportedVersionError(RewriteError):
    """The installed TensorFlow lacks something the rewriter relies on."""


class SavedModelError(RewriteError):
    """A SavedModel can't be read or written; the message says why and what to do."""


# How the reason begins that a report gives where the pass failed and left a function as it was.
FAILED = "the pass failed"
