"""YAML as people mean it, read so that no file can do more than be refused with a reason."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from anipot.errors import SettingsError
from anipot.system.files import read_text

#: Levels of a file that are read, and values that aliases (``*name``) may stand for in all.
_DEEPEST, _MOST_ALIASED = 50, 100_000

#: All kinds of values that options have; YAML's others (dates, sets, bytes) are refused by name.
_KINDS = ("null", "bool", "int", "float", "str", "seq", "map")


class _Loader(yaml.SafeLoader):
    """YAML as people mean it: YAML 1.1 reads off, NO (nitrogen, oxygen) and 1:30 as something other
    than text, and 1e-3 as text.

    What PyYAML lets pass is refused: a key that is there twice (it takes the last), values within
    themselves, and aliases or levels without end (they would take all memory, or the stack).
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._count = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if id(node) not in self._sizes:
                raise _refused(event, f"'*{event.anchor}' is within what it stands for")
            self._count += self._sizes[id(node)]
            if self._count > _MOST_ALIASED:
                raise _refused(event, f"aliases stand for more than {_MOST_ALIASED:,} values")
        else:
            before = self._count
            self._depth += 1
            self._count += 1
            if self._depth > _DEEPEST:
                raise _refused(event, f"more than {_DEEPEST} levels")
            node = super().compose_node(parent, index)
            self._depth -= 1
            self._sizes[id(node)] = self._count - before
        found: yaml.Node | None = node
        return found

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        first: dict[str, yaml.Node] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in first:
                line = first[key.value].start_mark.line + 1
                raise _refused(key, f"{key.value!r} is there twice, first in line {line}")
            first[key.value] = key
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except Exception as e:  # "!!int x", a number of 5,000 digits ...
            raise _refused(node, f"{type(e).__name__}: {e}") from None

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        value = super().construct_scalar(node)
        if isinstance(value, str) and not value.isascii():
            value.encode()  # half a surrogate pair could be written nowhere
        return value


def _refused(where: Any, why: str) -> yaml.YAMLError:
    """An error at a node or an event."""
    return yaml.MarkedYAMLError(problem=why, problem_mark=where.start_mark)


class _Dumper(yaml.SafeDumper):
    """Quotes what ``_Loader`` would read as something else."""


_Loader.yaml_constructors = {
    tag: constructor
    for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.rpartition(":")[2] in _KINDS
}
_Loader.yaml_implicit_resolvers = {}
_Dumper.yaml_implicit_resolvers = {}
for _kind, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|none|None|NONE|", ["~", "n", "N", ""]),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", "-+.0123456789"),
):
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_pattern})$"), list(_first)
        )


def load_yaml(path: str | Path) -> Any:
    """Read a YAML file as people mean it (``NO`` is text, ``1e-3`` a number).

    Raises SettingsError, with the line, for a file that cannot be read.
    """
    try:
        return yaml.load(read_text(path), _Loader)
    except yaml.YAMLError as e:
        raise SettingsError(f"{path}: cannot be read as YAML: {_in_words(e)}") from None


def _in_words(error: yaml.YAMLError) -> str:
    """Describe the error in a file, in one line."""
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        said = error.problem or error.context or "damaged"
        if "'\\t'" in said:
            said += "; indent with spaces"
        return said if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: {said}"
    return " ".join(str(error).split())


def dump_yaml(values: Any) -> str:
    """YAML that ``load_yaml`` reads back the same; lists of numbers stay in their line."""
    return yaml.dump(values, Dumper=_Dumper, default_flow_style=None, sort_keys=False, width=100)


def in_a_line(value: Any) -> str:
    """A value as YAML in one line."""
    text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, width=10_000)
    return text.strip().removesuffix("...").strip()


def parse_value(text: str) -> Any:
    """The value of an option as people write it: YAML, and ``160,128`` for a list."""
    text = text.strip()
    if "," in text and not text.startswith(("[", "{")):
        text = f"[{text}]"
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError:
        return text
