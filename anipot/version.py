"""The package's version, as installed."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("anipot")
except PackageNotFoundError:  # used from a checkout that was not installed
    __version__ = "0+unknown"
