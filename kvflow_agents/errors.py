"""What can go wrong, named by what the caller can do about it."""

from __future__ import annotations


class KVFlowError(Exception):
    """Base of every error this package raises."""


class ConfigurationError(KVFlowError):
    """An option, file or environment is not usable; the message says what to change."""


class HintError(KVFlowError):
    """A hint is malformed or over its limits.

    `reason` is a short label to count by (`hints.REASONS`), the message is for its sender.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class IncompatibleServerError(KVFlowError):
    """The installed SGLang lacks something the plugin needs; the server must not start."""
