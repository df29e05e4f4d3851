"""Verbs as plain functions: a function's parameters become the arguments and options of its verb.

    @app.command(epilog=examples("apex-exec stop"))
    def stop(seconds: Annotated[float, Option(min=0, help="How long to wait.")] = 10.0) -> None:
        '''Ends the daemon.'''

A parameter without a default is required. ``X | None`` may be left out, ``bool`` is a flag, ``Literal`` lists what may
be given, ``list`` takes several. ``click`` parses and writes the help; this module is all that knows of it.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import click
from click import Abort, BadParameter, ClickException
from click.exceptions import Exit

__all__ = ["Abort", "Argument", "BadParameter", "ClickException", "Exit", "Group", "Option", "build"]

Verb = TypeVar("Verb", bound=Callable[..., None])
_SETTINGS = {"help_option_names": ["--help", "-h"]}


class _Given:
    """What ``Annotated`` says about a parameter besides its type."""

    def __init__(self, *names: str, help: str = "", metavar: str | None = None, min: float | None = None,
                 max: float | None = None, is_eager: bool = False,
                 callback: Callable[[Any], None] | None = None) -> None:
        self.names = names
        self.help = help
        self.metavar = metavar
        self.min: Any = min  # whole numbers for an int, which is what click wants
        self.max: Any = max
        self.is_eager = is_eager
        self.callback = callback


class Option(_Given):
    """A parameter that is given by name. Without ``names`` its own name is used: ``as_csv`` becomes ``--as-csv``."""


class Argument(_Given):
    """A parameter that is given by its place."""


class Group:
    """Verbs under one word, in the order in which they are shown. ``sections`` maps headings of the help to names."""

    def __init__(self, help: str, sections: dict[str, tuple[str, ...]] | None = None) -> None:
        self.help = help
        self.sections = sections or {}
        self.options: Callable[..., None] | None = None
        self.alone: tuple[Callable[..., None], str] | None = None
        self.members: dict[str, Group | tuple[Callable[..., None], str]] = {}

    def command(self, name: str = "", *, epilog: str) -> Callable[[Verb], Verb]:
        """Makes a function a verb, with the function's name unless ``name`` gives another."""
        def register(function: Verb) -> Verb:
            self.members[name or function.__name__.replace("_", "-")] = function, epilog
            return function

        return register

    def add(self, name: str, group: Group) -> None:
        """Puts a group of verbs into this one."""
        self.members[name] = group

    def verb(self, *, epilog: str) -> Callable[[Verb], Verb]:
        """Makes a function what the group's own word does if no verb follows: ``apex-exec console``."""
        def register(function: Verb) -> Verb:
            self.alone = function, epilog
            return function

        return register

    def callback(self, function: Verb) -> Verb:
        """Makes the parameters of ``function`` options of the group itself."""
        self.options = function
        return function


class _Group(click.Group):
    """Shows its members in their own order, under the headings of ``sections``."""

    def __init__(self, *arguments: Any, sections: dict[str, tuple[str, ...]], **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.sections = sections

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        listed = {name for names in self.sections.values() for name in names}
        rest = tuple(name for name in self.commands if name not in listed)
        widest = max(map(len, self.commands), default=0)
        limit = formatter.width - 6 - widest
        for heading, names in {**self.sections, "Commands" if not listed else "More": rest}.items():
            rows = [(name.ljust(widest), self.commands[name].get_short_help_str(limit))
                    for name in names if name in self.commands]
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)


class _Command(click.Command):
    """A command whose help also explains its arguments."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [parameter.record(ctx) for parameter in self.params if isinstance(parameter, _Argument)]
        if rows:
            with formatter.section("Arguments"):
                formatter.write_dl(rows)
        super().format_options(ctx, formatter)


class _Argument(click.Argument):
    """An argument with a help text."""

    def __init__(self, *arguments: Any, told: str, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.told = told

    def record(self, ctx: click.Context) -> tuple[str, str]:
        """The row of the help."""
        if self.required:
            return self.make_metavar(ctx), f"{self.told}  [required]"
        return self.make_metavar(ctx), self.told + (f"  [default: {self.default}]" if self.default else "")


def build(group: Group, name: str) -> click.Group:
    """The tree that parses a command line."""
    if group.alone is not None:
        function, epilog = group.alone
        made = _Group(name, help=inspect.cleandoc(function.__doc__ or ""), epilog=epilog, sections=group.sections,
                      params=list(_parameters(function)), callback=_called(_unless_a_verb_follows(function)),
                      invoke_without_command=True, context_settings=_SETTINGS)
    else:
        made = _Group(name, help=group.help, no_args_is_help=True, sections=group.sections,
                      params=list(_parameters(group.options)) if group.options is not None else [],
                      callback=group.options, context_settings=_SETTINGS)
    for word, member in group.members.items():
        if isinstance(member, Group):
            if member.members or member.alone:
                made.add_command(build(member, word), word)
        else:
            function, epilog = member
            made.add_command(_Command(word, help=inspect.cleandoc(function.__doc__ or ""), epilog=epilog,
                                      params=list(_parameters(function)), callback=_called(function),
                                      context_settings=_SETTINGS), word)
    return made


def _unless_a_verb_follows(function: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(function)
    def call(**values: Any) -> None:
        if click.get_current_context().invoked_subcommand is None:
            function(**values)

    return call


def _called(function: Callable[..., None]) -> Callable[..., None]:
    """``function`` with lists if it wants lists: click gives tuples."""
    @functools.wraps(function)
    def call(**values: Any) -> None:
        function(**{key: (list(value) or None) if isinstance(value, tuple) else value for key, value in values.items()})

    return call


def _parameters(function: Callable[..., None]) -> Iterator[click.Parameter]:
    hints = get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        type_, given = get_args(hints[name])[:2]
        required = parameter.default is inspect.Parameter.empty
        kind, several = _kind(type_)
        named: dict[str, Any] = {"type": _click_type(kind, given), "required": required, "metavar": given.metavar}
        if not required:
            named["default"] = parameter.default
        if given.callback is not None:
            named["callback"] = lambda _context, _parameter, value, callback=given.callback: callback(value)
        if isinstance(given, Argument):
            yield _Argument([name], told=given.help, nargs=-1 if several else 1, **named)
            continue
        names = given.names or (f"--{name.replace('_', '-')}",)
        if kind is bool:
            named.update(type=click.BOOL, is_flag=True, metavar=None)
            if not given.names:
                names = (f"{names[0]}/--no-{names[0].removeprefix('--')}",)
        yield click.Option([*names, name], help=given.help, multiple=several,
                           is_eager=given.is_eager, expose_value=given.callback is None or not given.is_eager,
                           show_default=not required and parameter.default not in (None, "", False), **named)


def _kind(type_: Any) -> tuple[Any, bool]:
    """The type of one value, and whether there may be several."""
    if get_origin(type_) in (Union, types.UnionType):
        (type_,) = (one for one in get_args(type_) if one is not types.NoneType)
    return (get_args(type_)[0], True) if get_origin(type_) is list else (type_, False)


def _click_type(kind: Any, given: _Given) -> click.ParamType[Any]:
    if get_origin(kind) is Literal:
        return click.Choice([str(value) for value in get_args(kind)])
    if kind is int:
        return click.INT if given.min is None and given.max is None else click.IntRange(given.min, given.max)
    if kind is float:
        return click.FLOAT if given.min is None and given.max is None else click.FloatRange(given.min, given.max)
    return click.Path(path_type=Path) if kind is Path else click.STRING
