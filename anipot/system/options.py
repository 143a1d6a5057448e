"""Read options from YAML files and ``key=value`` words, check them, and write them back."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from anipot.config import RunSettings, Settings
from anipot.errors import SettingsError, shortly
from anipot.system.yaml_files import in_a_line, load_yaml, parse_value

S = TypeVar("S", bound=Settings)


def checked(kind: type[S], values: Mapping[str, Any]) -> S:
    """``kind(**values)``, with errors in plain words.

    Raises SettingsError that names each wrong key with the nearest known ones, and each wrong
    value.
    """
    if not isinstance(values, Mapping):
        raise SettingsError(f"a section with options is needed where {shortly(values)} is given")
    try:
        return kind.model_validate(dict(values))
    except ValidationError as e:
        # Two errors of one option are two ways of which neither fits, as widths for all or by
        # element: said once.
        words = dict.fromkeys(_in_words(kind, error) for error in e.errors())
        raise SettingsError("; ".join(words)) from None


def _in_words(kind: type[BaseModel], error: Any) -> str:
    where = [str(part) for part in error["loc"]]
    if error["type"] == "extra_forbidden":
        name = ".".join(where)
        known = list(_option(kind, where[:-1])[1].model_fields)
        near = difflib.get_close_matches(where[-1], known, n=3, cutoff=0.6)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
        return f"unknown option {name!r}; {hint}"
    name, _, info = _option(kind, where)
    if name.split(".")[-1] == "hidden":
        return (
            f"option {name!r}: must be widths such as 160,128,96, or widths by element such as "
            "{H: [160, 128], C: [144, 112]}"
        )
    hint = f" ({info})" if info else ""
    if error["type"] == "missing":
        return f"option {name!r}{hint}: must be given"
    message = error["msg"].removeprefix("Value error, ")
    return f"option {name!r}{hint}: {message} (got {shortly(error['input'])})"


def _option(kind: type[BaseModel], where: Sequence[str]) -> tuple[str, type[BaseModel], str]:
    """The full name of the option at a place, the class that it (or what is below it) is an option
    of, and what it means.
    """
    name: list[str] = []
    section = kind
    for part in where:
        name.append(part)
        field = section.model_fields.get(part)
        if field is None:  # a number in a list of settings, or a name among others
            continue
        inner = _settings_in(field.annotation)
        if inner is None:
            return ".".join(name), section, field.description or ""
        section = inner
    return ".".join(name), section, ""


def _settings_in(annotation: Any) -> type[BaseModel] | None:
    """The class of settings that an annotation is about, such as of ``list[ClaimSettings]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((s for a in get_args(annotation) if (s := _settings_in(a)) is not None), None)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The options in a YAML file, as nested dictionaries.

    Raises SettingsError for a file that is none, or has something other than sections in it.
    """
    values = load_yaml(path)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise SettingsError(
            f"{path}: must hold sections such as 'training:' with options below them"
        )
    sections: dict[str, Any] = {}
    for name, options in values.items():
        if options is not None and not isinstance(options, dict):
            raise SettingsError(
                f"{path}: {name!r} must be a section with options below it, such as data, model "
                f"or training; found {shortly(options)}"
            )
        sections[str(name)] = options or {}  # a section in which every option is commented out
    return sections


def with_words(values: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """``values`` changed by words such as ``training.batch_size=256``.

    The text behind ``=`` is read as YAML, with ``1e-3`` meant as a number, ``160,128,96`` as a
    list and ``none`` as no value. A key without its section is accepted where only one section has
    it. Raises SettingsError for a word without ``=`` and for a key that no section or more than
    one has.
    """
    changed = {k: dict(v) if isinstance(v, Mapping) else v for k, v in values.items()}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise SettingsError(
                f"{word!r} is neither a file nor an option such as training.epochs=50"
            )
        path = section_of(key.strip())
        inner = changed
        for part in path[:-1]:
            below = inner.setdefault(part, {})
            if not isinstance(below, dict):
                raise SettingsError(f"option {key!r}: {part!r} has no options below it")
            inner = below
        inner[path[-1]] = parse_value(text)
    return changed


def section_of(key: str) -> list[str]:
    """Section and name of an option; a name alone is accepted where only one section has it.

    Raises SettingsError for a name that no section or more than one has.
    """
    parts = key.split(".")
    if len(parts) > 1:
        return parts
    sections = {name: info.annotation for name, info in RunSettings.model_fields.items()}
    having = [n for n, s in sections.items() if s is not None and key in s.model_fields]
    if len(having) == 1:
        return [having[0], key]
    if having:
        raise SettingsError(f"option {key!r} could be {' or '.join(f'{s}.{key}' for s in having)}")
    known = {f"{n}.{k}": k for n, s in sections.items() if s is not None for k in s.model_fields}
    near = difflib.get_close_matches(key, known.values(), n=3, cutoff=0.6)
    names = [full for full, k in known.items() if k in near]
    raise SettingsError(
        f"unknown option {key!r}" + (f"; did you mean {' or '.join(names)}?" if names else "")
    )


def to_yaml(settings: Settings) -> str:
    """The resolved options, each with what it means, as YAML that reads back the same."""
    lines: list[str] = []
    for section, info in type(settings).model_fields.items():
        lines.append(f"{section}:")
        inner: BaseModel = getattr(settings, section)
        assert info.annotation is not None
        for key, field in type(inner).model_fields.items():
            value = in_a_line(inner.model_dump()[key])
            lines.append(f"  {key}: {value}  # {field.description}")
    return "\n".join(lines) + "\n"
