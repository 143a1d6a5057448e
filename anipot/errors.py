"""The errors that anipot raises for things its user can mend.

Each message names the thing that is wrong and the way out. The command line prints them without a
traceback. All of them are ``ValueError`` too, so that callers who know nothing of anipot's own
classes can still catch them.
"""

from __future__ import annotations

from typing import Any

#: No message is longer than this, whatever the file holds that it quotes or lists.
LONGEST = 2500


def shortly(value: Any, most: int = 200) -> str:
    """``repr(value)`` for a message, cut to ``most`` characters."""
    return cut(repr(value), most)


def cut(text: str, most: int = 200) -> str:
    """A text for a message, with its middle left out where it is longer than ``most``."""
    if len(text) <= most:
        return text
    tail = most // 4
    return f"{text[: most - tail]} ... {text[-tail:]}"


class AnipotError(ValueError):
    """Base class of all errors that anipot raises on purpose.

    A message that is too long to be read is cut in its middle: the file and the place stand at its
    beginning, the way out at its end.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*(cut(arg, LONGEST) if isinstance(arg, str) else arg for arg in args))


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
