"""Options of reading data files, shared by all commands that read some."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from anipot.data.mapping import ReadOptions, read_options

#: Default of ``read``: everything is found out from the files.
NO_OPTIONS = ReadOptions()


def reads_data(**fixed: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a command whose parameter ``read`` is a ReadOptions.

    On the command line the command then has an option for each field of ReadOptions in place of
    ``read``, except for the ``fixed`` ones, which it has always. Typer makes options of a
    function's signature, so the decorated function gets one of its own.
    """
    fields = {n: info for n, info in ReadOptions.model_fields.items() if n not in fixed}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def decorated(**values: Any) -> None:
            given = {name: values.pop(name) for name in fields}
            command(**values, read=read_options(**given, **fixed))

        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(command, eval_str=True).parameters.values():
            if parameter.name == "read":
                parameters += [_parameter(name, info) for name, info in fields.items()]
            else:
                parameters.append(parameter)
        decorated.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        decorated.__annotations__ = {p.name: p.annotation for p in parameters}
        return decorated

    return decorate


def _parameter(name: str, info: Any) -> inspect.Parameter:
    text = f"{info.description[0].upper()}{info.description[1:]}."
    option = "--" + name.replace("_", "-")
    # Texts are checked by ReadOptions; a flag has no --no-... beside it.
    kind = bool if info.annotation is bool else str | None
    return inspect.Parameter(
        name,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        default=info.default,
        annotation=Annotated[kind, typer.Option(option, help=text)],
    )
