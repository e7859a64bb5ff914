"""`cosa serve`: a proxy in front of models, with one safety config for each key."""

from cosa_guard.server.app import App

__all__ = ["App"]
