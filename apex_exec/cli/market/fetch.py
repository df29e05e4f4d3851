"""Fetching from a marketplace index: the command downloads it, and the daemon decides whether to trust it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from apex_exec.cli.output import progress

if TYPE_CHECKING:
    from apex_exec.client import AdminClient


def read_index(client: AdminClient, place: str, **args: str) -> Any:
    """What the index at ``place`` says about ``plugin`` (and ``version``) or ``words``, verified by the daemon.

    Raises Refusal if it cannot be fetched, and CallError if it was rolled back, has expired or is forged.
    """
    from apex_exec.market.shop.download import fetch
    from apex_exec.market.shop.index import INDEX_BYTES_MAX, NAME

    with progress(f"index of {place}") as tell:
        data = fetch(place, NAME, INDEX_BYTES_MAX, lambda count: tell(f"{count} bytes"))
    return client.request("market.index", {"place": place, "index": data, **args})


def fetch_plugin(client: AdminClient, place: str, plugin: str, version: str = "") -> tuple[dict[str, Any], bytes]:
    """The entry of ``plugin`` in the index at ``place``, and its ``.apx``: the bytes that the index names.

    Raises Refusal("bundle_swapped") if a mirror has other bytes, and everything that ``read_index`` raises.
    """
    from apex_exec.market.shop.download import fetch
    from apex_exec.market.shop.index import check_bundle
    from apex_exec.registry.bundles.bounds import Bounds

    entry = read_index(client, place, plugin=plugin, version=version)
    label = f"{plugin} {entry['version']}"
    with progress(label) as tell:
        data = fetch(place, entry["path"], Bounds.apx_bytes_max(),
                     lambda count: tell(f"{count} of {entry['size']} bytes ({100 * count // max(1, entry['size'])} %)"))
    check_bundle(label, entry["size"], entry["sha256"], data)
    return entry, data
