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
from collections.abc import Callable, Iterator
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from anipot.errors import SettingsError

T = TypeVar("T")


class Registry(Generic[T]):
    """Objects by name.

    ``kind`` names them in messages ("optimizer"), ``group`` is the group of entry points in which
    other packages offer more ("anipot.optimizers"); these are loaded when they are first asked for.
    """

    def __init__(self, kind: str, group: str) -> None:
        self.kind, self.group = kind, group
        self._known: dict[str, T] = {}

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
        near = difflib.get_close_matches(name, list(self), n=3, cutoff=0.6) or list(self)
        raise SettingsError(f"unknown {self.kind} {name!r}; known: {', '.join(near)}")

    def __contains__(self, name: object) -> bool:
        return name in list(self)

    def __iter__(self) -> Iterator[str]:
        """Names in order of registration, then those of entry points."""
        return iter(dict.fromkeys([*self._known, *self._offered]))
