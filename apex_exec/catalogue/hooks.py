"""Every hook, declared once: ``BUILT_IN`` below, and what the operator's configuration adds to it.

To add a hook, write the structs of its params and its result and one ``Hook`` in ``BUILT_IN``, then run
``python -m apex_exec.catalogue``, which writes the parts of other files that are made from this one. The decoder of a
request, the course of a dispatch, the manifest's check, the trial call, `schema`, the scaffold and the types of
TypeScript hosts all read this table.

``HOOKS`` is the table in force in this process. It is filled once, when a process starts (``declare``), and it does not
change while the process runs: plugins were checked against it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

Mode = Literal["all", "chain", "first"]

MODES: dict[Mode, str] = {
    "all": "every plugin at once",
    "chain": "one after another, each on what the last good one left",
    "first": "one after another, to the first that answers",
}
"""How one event runs in many plugins."""


class DashboardPayload(Struct, rename="camel"):
    dashboard_id: str
    user_id: str | UnsetType = UNSET


class DataFetchPayload(Struct, rename="camel"):
    query: str
    filters: dict[str, Raw]


class ActionPayload(Struct, rename="camel"):
    action: str
    context: dict[str, Raw]


class AuthPayload(Struct, rename="camel"):
    session_id: str
    user_id: str | UnsetType = UNSET


class Widget(Struct):
    id: str
    component: str
    props: dict[str, Any]


WIDGETS_MAX = 1000
"""Of one plugin on one dashboard. A dispatch holds those of every plugin at once and prefixes each one's id."""


class DashboardResult(Struct, rename="camel"):
    custom_widgets: Annotated[list[Widget], Meta(max_length=WIDGETS_MAX)]


class DataFetchResult(Struct, rename="camel"):
    transformed_data: Any


class ActionResult(Struct):
    result: Any
    metadata: dict[str, Any]


class Hook:
    """One hook and everything that the platform knows of it.

    ``params`` and ``result`` are the types that msgspec holds a payload and a result to. ``sample`` is a payload that a
    trial call is made with, and ``sample_result`` what a scaffold returns.

    What comes of a dispatch depends on ``mode``. In ``all``, the reply holds the lists in the results' field
    ``collects`` as one list; without ``collects`` it is the list of the results. In ``chain``, ``carries`` maps a
    field of the params to the field of the result that takes its place for the next plugin; the reply holds these
    fields as the last plugin left them, over ``default``. In ``first``, a plugin has answered if the field ``answers``
    of its result is not null, or, without ``answers``, if its result is not null; ``default`` is the reply if nobody
    has. The reply of a void hook is null.

    ``renders`` says that ``collects`` holds widgets, which are held to what the plugin and the platform may render.
    ``declared`` is what the configuration says of an operator's hook, with JSON Schema; None for a built-in one.
    """

    __slots__ = ("answers", "carries", "collects", "declared", "decode_params", "default", "doc", "fills_user",
                 "map_fields", "mode", "name", "params", "renders", "result", "sample", "sample_result", "void")

    def __init__(self, name: str, *, doc: str, mode: Mode, params: Any, result: Any, sample: dict[str, Any],
                 sample_result: Any = None, collects: str = "", carries: dict[str, str] | None = None,
                 answers: str = "", default: Any = None, renders: bool = False,
                 declared: dict[str, Any] | None = None) -> None:
        self.name = name
        self.doc = doc
        self.mode: Mode = mode
        self.params = params
        self.result = type(None) if result is None else result
        self.void = result is None
        self.sample = sample
        self.sample_result = sample_result
        self.collects = collects
        self.carries = carries or {}
        self.answers = answers
        self.default = default
        self.renders = renders
        self.declared = declared
        self.decode_params = msgspec.msgpack.Decoder(params).decode
        fields = msgspec.structs.fields(params) if isinstance(params, type) and issubclass(params, Struct) else ()
        self.fills_user = any(field.encode_name == "userId" for field in fields)
        self.map_fields = tuple(field.encode_name for field in fields
                                if field.required and getattr(field.type, "__origin__", None) is dict)

    def fields(self, kind: Any) -> list[str]:
        """The keys of ``kind`` (``params`` or ``result``) as documentation writes them: ``userId?`` may be left out.
        What a dispatch carries from plugin to plugin may be left out, too."""
        found = msgspec.structs.fields(kind) if isinstance(kind, type) and issubclass(kind, Struct) else ()
        names = [field.encode_name + "?" * (not field.required) for field in found]
        if kind is self.params:
            bare = {name.removesuffix("?") for name in names}
            names += [f"{name}?" for name in self.carries if name not in bare]
        return names


BUILT_IN = (
    Hook("onDashboardLoad", mode="all", params=DashboardPayload, result=DashboardResult, collects="customWidgets",
         renders=True, sample={"dashboardId": "trial"},
         sample_result={"customWidgets": [{"id": "greeting", "component": "Text", "props": {"text": "Hello"}}]},
         doc="all at once; widgets in `(priority, id)` order, ids prefixed `<plugin>/`"),
    Hook("onDataFetch", mode="chain", params=DataFetchPayload, result=DataFetchResult,
         carries={"data": "transformedData"}, default={"transformedData": None},
         sample={"query": "trial", "filters": {}}, sample_result={"transformedData": []},
         doc="one after another on the last good data"),
    Hook("onActionExecute", mode="first", params=ActionPayload, result=ActionResult, answers="result",
         sample={"action": "trial", "context": {}}, sample_result={"result": "done", "metadata": {}},
         doc="one after another to the first result that is not null"),
    Hook("onAuthSuccess", mode="all", params=AuthPayload, result=None, sample={"sessionId": "trial"},
         doc="all at once"),
)

HOOKS: dict[str, Hook] = {hook.name: hook for hook in BUILT_IN}
"""Every hook in force in this process, by its name; the built-in ones first."""

RENDERING: set[str] = {hook.name for hook in BUILT_IN if hook.renders}
"""Hooks whose results hold widgets."""


def declare(hooks: Iterable[Hook]) -> None:
    """Puts ``hooks`` beside the built-in ones. For the start of a process, before anything has read the table."""
    for name in [name for name, hook in HOOKS.items() if hook.declared is not None]:
        del HOOKS[name]
    HOOKS.update((hook.name, hook) for hook in hooks)
