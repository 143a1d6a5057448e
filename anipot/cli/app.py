"""Commands that accept ``--epochs 50`` and ``epochs=50`` alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from anipot.errors import SettingsError


class Command(TyperCommand):
    """A command whose options may be written ``--name value`` or ``name=value``.

    A command with an argument ``words`` takes all options of a training: ``--name value`` becomes
    the word ``name=value`` there. In all other cases ``name=value`` becomes ``--name value``. Names
    may have dashes or underscores.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(self._alike(list(args))))

    def _alike(self, args: list[str]) -> Iterator[str]:
        while args:
            arg = args.pop(0)
            name, equals, value = arg.partition("=")
            if arg == "--":
                yield from (arg, *args)
                return
            if arg.startswith("--"):
                yield from self._from_dashes(arg, name, equals, value, args)
            elif equals and not Path(arg).exists():
                yield from self._from_word(arg, name, value)
            else:
                yield arg

    def _from_dashes(
        self, arg: str, name: str, equals: str, value: str, args: list[str]
    ) -> Iterator[str]:
        """``arg`` begins with ``--``; its value may be the first of ``args``."""
        known = self._options.get(name)
        key = name[2:].replace("-", "_")
        if known is not None or not self._trains_with(key, name):
            yield arg
            if known is not None and not equals and not getattr(known, "is_flag", False):
                yield from (args.pop(0) for _ in range(min(known.nargs, len(args))))
        elif equals:
            yield f"{key}={value}"
        elif args and not args[0].startswith("--"):
            yield f"{key}={args.pop(0)}"
        else:
            raise SettingsError(f"{name} needs a value, as in {name} VALUE")

    def _from_word(self, arg: str, name: str, value: str) -> Iterator[str]:
        option = "--" + name.replace("_", "-")
        known = self._options.get(option)
        if known is None or self._trains_with(name, option):
            yield arg
        elif not getattr(known, "is_flag", False):
            yield from (option, value)
        elif value.lower() not in ("true", "false"):
            raise SettingsError(f"{arg}: must be {name}=true or {name}=false")
        elif value.lower() == "true":
            yield option

    @property
    def _options(self) -> dict[str, Any]:
        return {name: p for p in self.params for name in p.opts if name.startswith("--")}

    def _trains_with(self, key: str, option: str) -> bool:
        """Whether ``key`` is an option of a training, and this command takes these.

        Raises SettingsError for one that is nearly so, and is not nearly another of the command's.
        """
        from anipot.system.options import section_of

        if not any(p.name == "words" for p in self.params):
            return False
        if "." in key:
            return True
        try:
            section_of(key)
        except SettingsError as e:
            if "did you mean" in str(e) and not get_close_matches(option, self._options):
                raise
            return "could be" in str(e)
        return True


class App(typer.Typer):
    """A Typer application of such commands."""

    def command(self, name: str | None = None, **kwargs: Any) -> Callable[..., Any]:
        return super().command(name, cls=Command, **kwargs)
