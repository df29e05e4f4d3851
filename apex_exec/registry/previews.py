"""What people look at before they decide about a plugin: what a hook of it answers, and the pictures that it shows.

A preview is a real call of what is served, in its jail and with its grants, on behalf of a user who owns no row:
who looks at it may not see what users may. No host gets what it asks to be shown or sent; what it writes to the
database is written.
"""

from __future__ import annotations

from typing import Any

from apex_exec.errors import Code, Refusal
from apex_exec.registry.arguments import PictureArgs, PreviewArgs
from apex_exec.registry.bundles import checks
from apex_exec.registry.bundles.bundle import Bundle
from apex_exec.registry.bundles.pictures import shown_picture
from apex_exec.registry.context import Context
from apex_exec.registry.lifecycle import find_plugin, find_served, read_bundle
from apex_exec.registry.views import folder_bundles

PREVIEW_SECONDS = 90.0


def _served(ctx: Context, plugin: str) -> Bundle:
    """The bundle that is served, of the registry or of ``plugins_dir``. Raises Refusal."""
    try:
        return read_bundle(ctx, ctx.store.transact(lambda db: find_served(db, find_plugin(db, plugin))).digest)
    except Refusal as error:
        made = next((made for made in folder_bundles(ctx) if made.manifest.id == plugin), None)
        if error.reason != "plugin_not_found" or made is None:
            raise
        return made


def preview(ctx: Context, args: PreviewArgs) -> dict[str, Any]:
    """What a hook answers to a payload, and the effects that a host would get. Raises Refusal, also for a hook that
    fails, with the exception and its place."""
    bundle = _served(ctx, args.id)
    call = checks.canary_call(bundle.manifest, args.hook, args.payload, None)
    if not call:
        raise Refusal("hook_missing", "a preview needs a hook", code=Code.INVALID_INPUT,
                      hint=f"one of {', '.join(bundle.manifest.manifest.hooks)}")
    try:
        said = ctx.ask("smoke", {"plugin": args.id, "shown": True, **call}, PREVIEW_SECONDS)
    except Refusal as error:
        error.message = checks.in_source(ctx, bundle.digest, error.message)
        raise
    return {"id": args.id, "version": bundle.manifest.version, "hook": call["hook"],
            "result": said["result"], "effects": said["effects"], "usage": said["usage"]}


def picture(ctx: Context, args: PictureArgs) -> dict[str, Any]:
    """See ``pictures.shown_picture``."""
    bundle = _served(ctx, args.id)
    return shown_picture(bundle.manifest, bundle.files, args.number)
