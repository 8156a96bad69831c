"""Errors of the command line and the driver; their message is what the person sees."""

from __future__ import annotations

from actors.errors import SafeFedError


class ConfigError(SafeFedError, ValueError):
    """The configuration cannot be used: names the key, the value and the fix."""


class ClusterError(SafeFedError, RuntimeError):
    """The Ray cluster is not there, or too small for the run."""


class DeadlineError(SafeFedError, TimeoutError):
    """Something took longer than its deadline: names what was waited for."""


class CollectionError(SafeFedError, RuntimeError):
    """A reference client of `probe collect` failed: names the client and what happened."""


class CheckpointError(SafeFedError, RuntimeError):
    """A run cannot be kept, or not be resumed: names the file or the place, and what to do."""


class LostError(SafeFedError, RuntimeError):
    """An actor that a round needs is gone: the round is discarded and begun again."""
