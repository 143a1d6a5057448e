"""The errors that anipot raises for things its user can mend.

Each message names the thing that is wrong and the way out. The command line prints them without a
traceback. All of them are ``ValueError`` too, so that callers who know nothing of anipot's own
classes can still catch them.
"""


class AnipotError(ValueError):
    """Base class of all errors that anipot raises on purpose."""


class DataError(AnipotError):
    """A data set (a file, a group in it, or the arrays given) cannot be used as it is."""


class SettingsError(AnipotError):
    """An option is unknown, out of range, or contradicts another."""


class InUseError(SettingsError):
    """Another process works in a folder."""


class PotentialError(AnipotError):
    """A saved potential cannot be read, or cannot be used for what was asked."""


class TrainingError(AnipotError):
    """Training cannot start or cannot go on."""


class SimulationError(AnipotError):
    """A simulation cannot start or cannot go on; what it has so far is saved."""


class DisagreementError(SimulationError):
    """The members of an ensemble disagree more than the caller allows."""
