"""The version of the package, below everything that needs it: the stamp of a build among others."""

__version__ = "0.1.0"
