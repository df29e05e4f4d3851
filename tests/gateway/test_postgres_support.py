"""The tests' own PostgreSQL: a fresh database each time, reachable by SQLAlchemy and psycopg alike."""

from __future__ import annotations

import sqlalchemy

from tests.support.postgres import Postgres


def test_each_url_is_a_fresh_database_of_a_real_server(postgres: Postgres) -> None:
    for _ in range(2):
        engine = sqlalchemy.create_engine(postgres.url("fresh"))
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text("CREATE TABLE only_once (id int)"))
            assert "PostgreSQL" in connection.execute(sqlalchemy.text("SELECT version()")).scalar_one()
        engine.dispose()
