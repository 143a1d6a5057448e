"""Registries: the extension points of the package.

An optimizer, a loss term, an AEV engine or a reader registers under a name, either with a decorator
or with an entry point of an installed package:

    @optimizers.register("mine")
    def my_optimizer(weights, settings): ...

    # pyproject.toml of another package
    [project.entry-points."anipot.optimizers"]
    mine = "my_package:my_optimizer"
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from anipot.errors import SettingsError

T = TypeVar("T")

_registries: dict[str, Registry[Any]] = {}


class Registry(Generic[T]):
    """Objects by name.

    ``kind`` names them in messages ("optimizer"), ``group`` is the group of entry points in which
    other packages offer more ("anipot.optimizers"); these are loaded when they are first asked for.
    """

    def __init__(self, kind: str, group: str) -> None:
        self.kind, self.group = kind, group
        self._known: dict[str, T] = {}
        _registries[kind] = self

    @cached_property
    def _offered(self) -> dict[str, EntryPoint]:
        return {entry.name: entry for entry in entry_points(group=self.group)}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that registers a class or function. Raises SettingsError for a name in use."""

        def decorate(registered: T) -> T:
            if name in self._known:
                raise SettingsError(f"the {self.kind} {name!r} is registered already")
            self._known[name] = registered
            return registered

        return decorate

    def __getitem__(self, name: str) -> T:
        """Raises SettingsError for an unknown name, with the nearest known ones."""
        if name in self._known:
            return self._known[name]
        if name in self._offered:
            self._known[name] = self._offered[name].load()
            return self._known[name]
        raise SettingsError(unknown(self.kind, name, self))

    def __contains__(self, name: object) -> bool:
        return name in list(self)

    def __iter__(self) -> Iterator[str]:
        """Names in order of registration, then those of entry points."""
        return iter(dict.fromkeys([*self._known, *self._offered]))


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Message about an unknown name, with the nearest known ones."""
    known = list(dict.fromkeys(known))
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6) or known
    return f"unknown {kind} {name!r}; known: {', '.join(near)}"


def names(kind: str, group: str, built_in: Collection[str]) -> Callable[[str], str]:
    """Return a check of names for settings, which are read before built-in ones are registered.

    The check raises ValueError for a name that is neither built in nor registered.
    """

    def check(name: str) -> str:
        known = [*built_in, *(_registries.get(kind) or Registry(kind, group))]
        if name not in known:
            raise ValueError(unknown(kind, name, known))
        return name

    return check
