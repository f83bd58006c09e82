"""The version, where every room can read it: importing the package itself would run upwards."""

__version__ = "0.3.0"
