"""The version, where the build, the command line and every output's provenance read it."""

__version__ = "0.1.0"
