"""feat-fed: hospitals train one medical-video generator together.

Importing this package is cheap; torch, MONAI, DeepSpeed, Flower and Ray are imported
by the modules that use them.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("feat-fed")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0.0.0"

__all__ = ["__version__"]
