"""Files of the shop that several daemons need, where they share the marketplace's database on a server.

What was submitted at one daemon is reviewed at another, and each publishes the same folder. A file is in the database
before a row names it, and is copied into a daemon's own folder when it is needed there. The market key's private part
is never in the database: only its public part is, so that every daemon checks what was signed, and no second key is
made.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from apex_exec.common.files import replace_file
from apex_exec.market.store import NAME as STORE
from apex_exec.market.store import shop_files
from apex_exec.registry.database import is_server, transact

PUBLIC_KEY = "market.pub"


class SharedFiles:
    """The files in the database of ``engine``; on SQLite, which nobody shares, there are none and every method does
    nothing. Raises Refusal if the database fails."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self.are_shared = is_server(engine)

    def put(self, name: str, data: bytes, now_ns: int, db: sa.Connection | None = None) -> None:
        """Stores ``data`` as ``name``, in the place of what it was: in the open transaction ``db``, or in one of its
        own."""
        if not self.are_shared:
            return
        query = insert(shop_files).values(name=name, data=data, changed_ns=now_ns)
        query = query.on_conflict_do_update(index_elements=["name"], set_={"data": data, "changed_ns": now_ns})
        if db is not None:
            db.execute(query)
        else:
            transact(self._engine, STORE, lambda one: one.execute(query))

    def put_first(self, name: str, data: bytes, now_ns: int) -> bytes:
        """Stores ``data`` as ``name`` unless there is such a file; the content that there is then."""
        if not self.are_shared:
            return data

        def work(db: sa.Connection) -> bytes:
            db.execute(insert(shop_files).values(name=name, data=data, changed_ns=now_ns).on_conflict_do_nothing())
            return bytes(db.execute(sa.select(shop_files.c.data).where(shop_files.c.name == name)).scalar_one())

        return transact(self._engine, STORE, work)

    def get(self, name: str) -> bytes | None:
        """The content of ``name``; None if there is no such file."""
        if not self.are_shared:
            return None
        data = transact(self._engine, STORE, lambda db: db.execute(
            sa.select(shop_files.c.data).where(shop_files.c.name == name)).scalar())
        return None if data is None else bytes(data)

    def bring(self, name: str, path: Path, mode: int = 0o600) -> bool:
        """Copies ``name`` to ``path`` if no file is there; whether a file is there then. Raises OSError too."""
        if path.exists():
            return True
        data = self.get(name)
        if data is None:
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, data, mode=mode)
        return True
