"""The errors a user can cause and mend; each message is one plain line with the remedy."""

from __future__ import annotations


class EgorayError(Exception):
    """Base of every error that the command line prints as one line, without a traceback."""


class ConfigError(EgorayError):
    """A config file, an option or a path is wrong; the message names the key."""


class FormatError(EgorayError):
    """An input file does not hold what its format says; the message names the file."""


class ModelError(EgorayError):
    """A model or its weights cannot be used; the message names the file or the model."""


class StageError(EgorayError):
    """A stage could not account for all of its units, or the cluster could not run it."""
