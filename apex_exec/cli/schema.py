"""``schema``: JSON Schema of every message of the wire, made from the structs that decode them."""

from __future__ import annotations

from typing import Annotated, Any

from apex_exec.cli.output import print_json, say
from apex_exec.cli.root import EXIT_USAGE, ConfigFile, app, examples, fail
from apex_exec.cli.verbs import Argument, Option


@app.command(epilog=examples("apex-exec schema > apex-exec.schema.json", "apex-exec schema invoke",
                             "apex-exec schema --typescript --config daemon.toml > hooks.d.ts"))
def schema(
    message: Annotated[str | None, Argument(help="One message by its `type`, such as invoke. Default: all.")] = None,
    typescript: Annotated[bool, Option(
        "--typescript", help="Print types for a host in TypeScript: the hooks that the configuration declares.")
        ] = False,
    config: ConfigFile = None,
) -> None:
    """Prints JSON Schema of the wire's messages.

    One document with a definition for each message, and for each hook's payload and result, with those that the
    configuration declares.
    """
    from apex_exec.catalogue.declared import declare_all
    from apex_exec.catalogue.hooks import HOOKS
    from apex_exec.config import load_settings

    declare_all(load_settings(config).declared_hooks())
    if typescript:
        from apex_exec.catalogue.generated import augmentation

        say(augmentation(list(HOOKS.values())).rstrip())
        return

    document = whole()
    if message is not None:
        picked = {way: {message: document[way][message]} for way in ("requests", "answers") if message in document[way]}
        if not picked:
            known = sorted({*document["requests"], *document["answers"]})
            fail(f"there is no message {message!r}; there are {', '.join(known)}", EXIT_USAGE)
        document = {"$schema": document["$schema"], **picked, "$defs": document["$defs"]}
    print_json(document, raw=True, indented=True)


def whole() -> dict[str, Any]:
    """The document: ``requests`` and ``answers`` by their ``type``, ``hooks`` by name, and their ``$defs``."""
    import msgspec

    from apex_exec.catalogue.hooks import HOOKS
    from apex_exec.daemon.administration import registrar_table
    from apex_exec.daemon.administration.operations import OPERATIONS
    from apex_exec.errors import CODES
    from apex_exec.wire import messages

    registrar_table.register_all()
    ways = {"requests": messages.Request, "answers": messages.Answer}
    structs = [(way, described(kind)) for way, base in ways.items() for kind in base.__subclasses__()]
    built_in = [hook for hook in HOOKS.values() if hook.declared is None]
    by_operator = {hook.name: hook.declared for hook in HOOKS.values() if hook.declared is not None}
    operations = sorted(OPERATIONS)
    shapes, definitions = msgspec.json.schema_components(
        [*(kind for _, kind in structs), *(hook.params for hook in built_in), *(hook.result for hook in built_in),
         *(OPERATIONS[name].args for name in operations)],
        ref_template="#/$defs/{name}")
    found = iter(shapes)
    by_type: dict[str, dict[str, Any]] = {way: {} for way in ways}
    for way, kind in structs:
        by_type[way][str(kind.__struct_config__.tag)] = next(found)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "apex-exec host protocol, version 1: MessagePack maps, described as JSON",
        **by_type,
        "hooks": {"payload": {hook.name: next(found) for hook in built_in} | {
                      name: declared["params"] for name, declared in by_operator.items()},
                  "result": {hook.name: next(found) for hook in built_in} | {
                      name: declared["result"] or {"type": "null"} for name, declared in by_operator.items()}},
        "operations": {name: next(found) for name in operations},
        "codes": {str(code): {"fault": str(fault), "retryable": retry.value} for code, (fault, retry) in CODES.items()},
        "$defs": definitions,
    }


def described(kind: Any) -> Any:
    """``kind`` with its undecoded fields in types that JSON Schema knows: a payload is a map, others are anything."""
    import msgspec

    config = kind.__struct_config__
    fields: list[Any] = []
    for field in msgspec.structs.fields(kind):
        if field.type is msgspec.Raw:
            is_map = field.name == "payload"
            optional = field.default is not msgspec.NODEFAULT
            fields.append((field.name, dict[str, Any] if is_map else Any, *([{} if is_map else None] * optional)))
        elif field.default is not msgspec.NODEFAULT:
            fields.append((field.name, field.type, field.default))
        elif field.default_factory is not msgspec.NODEFAULT:
            fields.append((field.name, field.type, msgspec.field(default_factory=field.default_factory)))
        else:
            fields.append((field.name, field.type))
    made = msgspec.defstruct(kind.__name__, fields, tag_field=config.tag_field, tag=config.tag, rename="camel",
                             kw_only=True)
    made.__doc__ = kind.__doc__
    return made
