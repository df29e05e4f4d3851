"""What a chain is called: an id of its own, kept in the state folder, whatever its machine and its path are called.

The outbox of writes belongs to the state folder's id, for good. The chain's id has a number behind it if an operator
has gone on with another ledger in the same folder (``audit accept``): that is another chain. Every function blocks on
the disk.
"""

from __future__ import annotations

import secrets
from pathlib import Path

import msgspec

from apex_exec.common.files import replace_file
from apex_exec.ledger.records import LedgerError

NAME, HOLDER = "chain", "chain.holder"
ID_BYTES = 16
HOLDERS_MAX = 256
"""Lives of a daemon whose marks are kept. The database has the mark of the last one that shipped, and since then there
may have been others that could not; or the database was restored, and has the mark of an earlier one."""


class Chain(msgspec.Struct, frozen=True):
    """``id`` names the state folder. ``number`` counts the ledgers that it has had before this one. ``formerly`` is
    what the outbox of an earlier release calls it, "" if there was none."""

    id: str
    number: int = 0
    formerly: str = ""

    @property
    def name(self) -> str:
        """What the chain is called, where chains are together."""
        return f"{self.id}.{self.number}" if self.number else self.id


def own_chain(state: Path, formerly: str = "") -> Chain:
    """The chain of this state folder; it is given an id if it has none. ``formerly`` is noted then, if the folder has a
    ledger already. Raises LedgerError."""
    found = read_chain(state)
    if found is None:
        found = Chain(secrets.token_hex(ID_BYTES), formerly=formerly if (state / "audit.db").exists() else "")
        _write(state, found)
    return found


def read_chain(state: Path) -> Chain | None:
    """The chain of this state folder; None if it has no id yet. Raises LedgerError."""
    path = state / NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=Chain)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise LedgerError(f"{path}, the id of this ledger's chain, cannot be read: {error}; restore it from a backup"
                          ) from None


def next_chain(state: Path) -> Chain:
    """The ledger that is there now is another chain than the one before. Raises LedgerError."""
    found = read_chain(state) or own_chain(state)
    made = msgspec.structs.replace(found, number=found.number + 1)
    _write(state, made)
    return made


def _write(state: Path, chain: Chain) -> None:
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(state / NAME, msgspec.json.encode(chain), only_writer=True)
    except OSError as error:
        raise LedgerError(f"{state / NAME} cannot be written: {error.strerror}") from None


def holders(state: Path) -> list[str]:
    """The marks of the processes of this state folder that have shipped the chain last, the latest first."""
    try:
        return (state / HOLDER).read_text("ascii").split()
    except (OSError, UnicodeError):
        return []


def note_holder(state: Path, holder: str) -> None:
    """Notes the mark of the process that is about to ship the chain. Raises OSError."""
    known = holders(state)
    if known[:1] != [holder]:
        kept = [one for one in known if one != holder][: HOLDERS_MAX - 1]
        replace_file(state / HOLDER, " ".join([holder, *kept]).encode(), only_writer=True)
