# ruff: noqa: E501 - a statement reads better in few lines
"""What ten kinds of dashboard ask, and a small shop to ask it of. Used by ``test_dashboards``.

``DASHBOARDS`` maps a kind to its statements; a statement is a text, or (text, parameters).
"""

from __future__ import annotations

import json
import random
from typing import Any

from tests.gateway.conftest import A, B

SCHEMA = [
    "CREATE TABLE sales (id integer PRIMARY KEY, user_id uuid NOT NULL, customer integer, item text, category text, "
    "region text, qty integer, price double precision, total numeric(10,2), paid boolean, created timestamptz, "
    "day date, note text, secret text)",
    "CREATE TABLE customers (id integer PRIMARY KEY, user_id uuid NOT NULL, name text, email text, joined date, "
    "country text)",
    "CREATE TABLE events (id integer PRIMARY KEY, user_id uuid NOT NULL, customer integer, kind text, at timestamptz, "
    "props jsonb, tags text[], secret text)",
    "CREATE TABLE tickets (id integer PRIMARY KEY, user_id uuid NOT NULL, parent integer, subject text, priority "
    "integer, agent text, opened timestamptz, closed timestamptz, lat double precision, lon double precision)",
]
TABLES = {
    "sales": {"owner": "user_id", "columns": ["id", "customer", "item", "category", "region", "qty", "price", "total",
                                              "paid", "created", "day", "note"]},
    "customers": {"owner": "user_id", "columns": ["id", "name", "email", "joined", "country"]},
    "events": {"owner": "user_id", "columns": ["id", "customer", "kind", "at", "props", "tags"]},
    "tickets": {"owner": "user_id", "columns": ["id", "parent", "subject", "priority", "agent", "opened", "closed",
                                                "lat", "lon"]},
}


def rows_of(users: str = "AB") -> list[str]:
    """INSERTs of the rows of ``users``. Every text of B's contains SECRET, every hidden one HIDDEN."""
    done = []
    for user, name in (("A", A), ("B", B)):
        rng = random.Random(user)
        theirs, first = "SECRET " * (user == "B"), 1 if user == "A" else 1001
        if user not in users:
            continue
        for number in range(first, first + 12):
            done.append(f"INSERT INTO customers VALUES ({number}, '{name}', '{theirs}Customer {number}', "
                        f"'c{number}@example.org', '2026-0{rng.randint(1, 4)}-1{rng.randint(0, 9)}', "
                        f"'{rng.choice(['DE', 'FR', 'US'])}')")
        for number in range(first, first + 60):
            qty, total = rng.randint(1, 9), f"{rng.randint(1, 500)}.{rng.randint(0, 99):02}"
            month, day, hour = rng.randint(1, 6), rng.randint(1, 28), rng.randint(0, 23)
            stamp = f"2026-0{month}-{day:02} {hour:02}:{rng.randint(0, 59):02}:00+00:00"
            note = "NULL" if number % 4 == 0 else f"'{theirs}note {number} of it''s kind'"
            done.append(
                f"INSERT INTO sales VALUES ({number}, '{name}', {first + rng.randint(0, 11)}, "
                f"'{theirs}item {rng.randint(1, 8)}', '{rng.choice(['books', 'toys', 'food'])}', "
                f"'{rng.choice(['north', 'south'])}', {qty}, {rng.randint(1, 40)}.5, {total}, "
                f"{rng.choice(['TRUE', 'FALSE'])}, '{stamp}', '2026-0{month}-{day:02}', {note}, 'HIDDEN')")
            props = {"page": rng.choice(["/", "/cart", "/pay"]), "ms": rng.randint(5, 900), "beta": number % 3 == 0,
                     "items": [{"sku": f"s{rng.randint(1, 4)}", "n": rng.randint(1, 3)} for _ in range(number % 3)],
                     "geo": {"city": rng.choice(["Bonn", "Lyon"])}}
            tags = ["null", "{}", "{red}", "{red,blue}", "{blue,green}"][number % 5]
            kind = rng.choice(["visit", "cart", "order"])
            done.append(
                f"INSERT INTO events VALUES ({number}, '{name}', {first + rng.randint(0, 11)}, '{kind}', '{stamp}', "
                f"'{json.dumps(props)}', {tags if tags == 'null' else repr(tags)}, 'HIDDEN {theirs}')")
        for number in range(first, first + 24):
            closed = "NULL" if number % 5 == 0 else f"'2026-03-{rng.randint(10, 28)} 12:00:00+00:00'"
            parent = "NULL" if number - first < 4 else str(rng.randint(first, number - 1))
            done.append(
                f"INSERT INTO tickets VALUES ({number}, '{name}', {parent}, '{theirs}Subject {number}', "
                f"{rng.randint(1, 4)}, '{rng.choice(['ann', 'ben', 'cleo'])}', '2026-03-0{rng.randint(1, 9)} "
                f"0{rng.randint(1, 9)}:00:00+00:00', {closed}, {rng.randint(45, 55)}.25, {rng.randint(1, 12)}.5)")
    return done


DASHBOARDS: dict[str, list[Any]] = {
    "sales": [
        "SELECT count(*) AS n, sum(total) AS t FROM sales",
        "SELECT category, count(*) AS n, sum(qty) AS q, avg(price) AS p FROM sales GROUP BY category ORDER BY category",
        "SELECT region, category, sum(total) AS t FROM sales GROUP BY region, category ORDER BY region, category",
        "SELECT category, sum(total) FILTER (WHERE paid) AS paid, sum(total) FILTER (WHERE NOT paid) AS open FROM sales "
        "GROUP BY category ORDER BY category",
        "SELECT region, category, sum(total) AS t FROM sales GROUP BY ROLLUP (region, category) "
        "ORDER BY region NULLS LAST, category NULLS LAST",
        "SELECT region, category, grouping(region, category) AS g, count(*) AS n FROM sales "
        "GROUP BY CUBE (region, category) ORDER BY g, region, category",
        "SELECT region, category, count(*) AS n FROM sales GROUP BY GROUPING SETS ((region), (category), ()) "
        "ORDER BY region, category",
        "SELECT category, round(sum(total) / sum(qty), 2) AS each FROM sales GROUP BY category ORDER BY category",
        "SELECT category, sum(total)::numeric(12,1) AS t FROM sales GROUP BY category ORDER BY category",
        "SELECT item, sum(total) AS t, 100 * sum(total) / sum(sum(total)) OVER () AS share FROM sales GROUP BY item "
        "ORDER BY t DESC, item LIMIT 5",
        "SELECT bool_or(paid) AS any, bool_and(paid) AS all, every(qty > 0) AS each FROM sales",
        "SELECT category, string_agg(DISTINCT region, ', ' ORDER BY region) AS regions FROM sales GROUP BY category "
        "ORDER BY category",
        "SELECT category, array_agg(id ORDER BY id) AS ids FROM sales GROUP BY category ORDER BY category",
        ("SELECT id, total FROM sales WHERE id = ANY($1) ORDER BY id", [[1, 5, 9, 1001]]),
        ("SELECT id FROM sales WHERE category = ANY($1) AND id <> ALL($2) ORDER BY id", [["toys", "food"], [3, 4]]),
        "SELECT id FROM sales WHERE category = ANY('{books,toys}') ORDER BY id",
        ("SELECT count(*) AS n FROM sales WHERE category IN ($1, $2)", ["books", "food"]),
    ],
    "time series": [
        "SELECT date_trunc('month', created) AS month, count(*) AS n, sum(total) AS t FROM sales GROUP BY 1 ORDER BY 1",
        "SELECT date_trunc('week', created)::date AS week, count(*) AS n FROM sales GROUP BY week ORDER BY week",
        "SELECT extract(dow FROM created) AS dow, count(*) AS n FROM sales GROUP BY 1 ORDER BY 1",
        "SELECT extract(hour FROM created)::int AS hour, count(*) AS n FROM sales GROUP BY 1 ORDER BY 1",
        "SELECT date_part('month', day) AS m, max(total) AS t FROM sales GROUP BY 1 ORDER BY 1",
        "SELECT to_char(created, 'YYYY-MM') AS m, count(*) AS n FROM sales GROUP BY 1 ORDER BY 1",
        "SELECT to_char(day, 'Dy DD Mon') AS d FROM sales ORDER BY id LIMIT 5",
        "SELECT created::date AS d, count(*) AS n FROM sales GROUP BY created::date ORDER BY d",
        "SELECT day, sum(count(*)) OVER (ORDER BY day) AS running FROM sales GROUP BY day ORDER BY day",
        "SELECT day, avg(sum(total)) OVER (ORDER BY day ROWS BETWEEN 6 PRECEDING AND CURRENT ROW) AS avg7 FROM sales "
        "GROUP BY day ORDER BY day",
        "SELECT month, t, lag(t) OVER (ORDER BY month) AS before, t - lag(t, 1, 0) OVER (ORDER BY month) AS more FROM "
        "(SELECT date_trunc('month', created) AS month, sum(total) AS t FROM sales GROUP BY 1) m ORDER BY month",
        "SELECT g.day::date AS day, count(s.id) AS n FROM generate_series(date '2026-03-01', date '2026-03-31', "
        "interval '1 day') AS g(day) LEFT JOIN sales s ON s.day = g.day::date GROUP BY 1 ORDER BY 1",
        "SELECT count(*) AS n FROM sales WHERE created >= timestamptz '2026-03-01' - interval '30 days'",
        "SELECT count(*) AS n FROM sales WHERE created BETWEEN now() - interval '100 years' AND now() + interval '1 day'",
        ("SELECT count(*) AS n FROM sales WHERE created >= $1 AND created < $1::timestamptz + interval '1 month'",
         ["2026-03-01T00:00:00Z"]),
        "SELECT date_trunc('day', created AT TIME ZONE 'America/New_York') AS d, count(*) AS n FROM sales GROUP BY 1 "
        "ORDER BY 1",
        "SELECT sum(qty) OVER (ORDER BY created RANGE BETWEEN INTERVAL '7 days' PRECEDING AND CURRENT ROW) AS w FROM "
        "sales ORDER BY created, id LIMIT 10",
        "SELECT date_bin('15 minutes', created, timestamptz '2026-01-01') AS slot, count(*) AS n FROM sales "
        "GROUP BY slot ORDER BY slot LIMIT 8",
        "SELECT make_date(2026, extract(month FROM day)::int, 1) AS m, count(*) AS n FROM sales GROUP BY m ORDER BY m",
        "SELECT max(created) - min(created) AS span FROM sales",
        "SELECT current_date >= day AS past, count(*) AS n FROM sales GROUP BY 1 ORDER BY 1",
        "SELECT extract(epoch FROM max(created) - min(created)) / 3600 AS hours FROM sales",
        "SELECT substr(CAST(day AS text), 1, 7) AS m, count(*) AS n FROM sales GROUP BY substr(CAST(day AS text), 1, 7)"
        " ORDER BY m",
        "SELECT date_trunc('quarter', day) AS q, sum(total) AS t FROM sales GROUP BY 1 ORDER BY 1",
    ],
    "cohorts": [
        "SELECT date_trunc('month', c.joined) AS cohort, count(DISTINCT s.customer) AS buyers FROM customers c LEFT "
        "JOIN sales s ON s.customer = c.id GROUP BY 1 ORDER BY 1",
        "WITH first AS (SELECT customer, min(created) AS at FROM sales GROUP BY customer) SELECT "
        "date_trunc('month', first.at) AS cohort, extract(month FROM age(date_trunc('month', s.created), "
        "date_trunc('month', first.at)))::int AS month, count(DISTINCT s.customer) AS n FROM sales s JOIN first "
        "USING (customer) GROUP BY 1, 2 ORDER BY 1, 2",
        "SELECT to_char(joined, 'YYYY-MM') AS cohort, array_agg(name ORDER BY id) AS names FROM customers GROUP BY 1 "
        "ORDER BY 1",
        "SELECT c.country, count(*) AS n, round(avg(s.n), 2) AS orders FROM customers c JOIN LATERAL (SELECT count(*) AS "
        "n FROM sales WHERE customer = c.id) s ON TRUE GROUP BY c.country ORDER BY c.country",
        "SELECT DISTINCT ON (customer) customer, id, created FROM sales ORDER BY customer, created, id",
        "SELECT customer, first_value(item) OVER (PARTITION BY customer ORDER BY created, id) AS first FROM sales "
        "ORDER BY customer, created, id LIMIT 10",
        "SELECT customer, count(*) AS n, min(day) AS first, max(day) AS last FROM sales GROUP BY customer ORDER BY 1",
        "SELECT width_bucket(total, 0, 500, 5) AS bucket, count(*) AS n FROM sales GROUP BY 1 ORDER BY 1",
        "SELECT ntile(4) OVER (ORDER BY total, id) AS quartile, id FROM sales ORDER BY id LIMIT 10",
        "SELECT cume_dist() OVER (ORDER BY qty) AS c, percent_rank() OVER (ORDER BY qty) AS p FROM sales "
        "ORDER BY qty, id LIMIT 10",
        "SELECT age(timestamp '2026-03-01', joined::timestamp) AS a FROM customers ORDER BY id",
        "SELECT country, count(*) FILTER (WHERE joined < '2026-03-01') AS early FROM customers GROUP BY country "
        "ORDER BY country",
        "SELECT CASE WHEN n >= 6 THEN 'heavy' WHEN n >= 3 THEN 'medium' ELSE 'light' END AS class, count(*) AS n FROM "
        "(SELECT customer, count(*) AS n FROM sales GROUP BY customer) x GROUP BY 1 ORDER BY 1",
        "SELECT c.name, coalesce(s.t, 0) AS t FROM customers c LEFT JOIN (SELECT customer, sum(qty) AS t FROM sales "
        "GROUP BY customer) s ON s.customer = c.id ORDER BY c.id",
        "SELECT id, name FROM customers c WHERE EXISTS (SELECT 1 FROM sales s WHERE s.customer = c.id AND s.qty > 8) "
        "ORDER BY id",
    ],
    "funnels": [
        "SELECT kind, count(*) AS n, count(DISTINCT customer) AS who FROM events GROUP BY kind ORDER BY kind",
        "SELECT count(*) FILTER (WHERE kind = 'visit') AS visits, count(*) FILTER (WHERE kind = 'cart') AS carts, "
        "count(*) FILTER (WHERE kind = 'order') AS orders FROM events",
        "WITH v AS (SELECT DISTINCT customer FROM events WHERE kind = 'visit'), o AS (SELECT DISTINCT customer FROM "
        "events WHERE kind = 'order') SELECT (SELECT count(*) FROM v) AS v, (SELECT count(*) FROM v JOIN o USING "
        "(customer)) AS vo",
        "SELECT customer, kind, at, lead(kind) OVER w AS next, lead(at) OVER w - at AS gap FROM events "
        "WINDOW w AS (PARTITION BY customer ORDER BY at, id) ORDER BY customer, at, id LIMIT 20",
        "SELECT a.customer, min(b.at) - min(a.at) AS took FROM events a JOIN events b ON b.customer = a.customer AND "
        "b.kind = 'order' WHERE a.kind = 'visit' GROUP BY a.customer ORDER BY a.customer",
        "SELECT step, n FROM (VALUES (1, 'visit'), (2, 'cart'), (3, 'order')) AS s(step, kind) JOIN (SELECT kind, "
        "count(*) AS n FROM events GROUP BY kind) e USING (kind) ORDER BY step",
        "SELECT s.kind, e.n FROM (VALUES ('visit'), ('cart'), ('refund')) AS s(kind) LEFT JOIN LATERAL (SELECT "
        "count(*) AS n FROM events WHERE events.kind = s.kind) e ON TRUE ORDER BY s.kind",
        "SELECT kind, round(100.0 * count(*) / sum(count(*)) OVER (), 1) AS percent FROM events GROUP BY kind "
        "ORDER BY kind",
        "SELECT customer, array_agg(kind ORDER BY at, id) AS path FROM events GROUP BY customer ORDER BY customer",
        "SELECT string_agg(kind, ' > ' ORDER BY at, id) AS path FROM events GROUP BY customer ORDER BY customer",
        "SELECT customer, sum(CASE WHEN gap > interval '3 days' OR gap IS NULL THEN 1 ELSE 0 END) AS sessions FROM "
        "(SELECT customer, at - lag(at) OVER (PARTITION BY customer ORDER BY at, id) AS gap FROM events) x GROUP BY "
        "customer ORDER BY customer",
        "SELECT id FROM events WHERE (kind, customer) IN (('visit', 1), ('cart', 2), ('order', 3)) ORDER BY id",
        "SELECT nth_value(kind, 2) OVER (PARTITION BY customer ORDER BY at, id ROWS BETWEEN UNBOUNDED PRECEDING AND "
        "UNBOUNDED FOLLOWING) AS second FROM events ORDER BY customer, at, id LIMIT 12",
        "SELECT kind, last_value(id) OVER (PARTITION BY kind ORDER BY id ROWS BETWEEN UNBOUNDED PRECEDING AND "
        "UNBOUNDED FOLLOWING) AS last FROM events ORDER BY id LIMIT 9",
    ],
    "retention": [
        "SELECT a.month, count(DISTINCT b.customer) AS back FROM (SELECT DISTINCT customer, date_trunc('month', at) AS "
        "month FROM events) a LEFT JOIN (SELECT DISTINCT customer, date_trunc('month', at) AS month FROM events) b ON "
        "b.customer = a.customer AND b.month = a.month + interval '1 month' GROUP BY a.month ORDER BY a.month",
        "SELECT customer, count(DISTINCT date_trunc('week', at)) AS weeks FROM events GROUP BY customer ORDER BY 1",
        "WITH days AS (SELECT DISTINCT customer, at::date AS d FROM events), runs AS (SELECT customer, d, d - "
        "(row_number() OVER (PARTITION BY customer ORDER BY d))::int AS run FROM days) SELECT customer, run, count(*) "
        "AS n FROM runs GROUP BY customer, run HAVING count(*) > 1 ORDER BY customer, run",
        "SELECT customer FROM events GROUP BY customer HAVING max(at) < timestamptz '2026-06-01' - interval '20 days' "
        "ORDER BY customer",
        "SELECT m.m::date AS m, (SELECT count(DISTINCT customer) FROM events WHERE at >= m.m AND at < m.m + interval "
        "'1 month') AS active FROM generate_series(timestamptz '2026-01-01', timestamptz '2026-06-01', "
        "interval '1 month') AS m ORDER BY m",
        "SELECT customer, id FROM events e WHERE NOT EXISTS (SELECT 1 FROM events f WHERE f.customer = e.customer AND "
        "(f.at, f.id) > (e.at, e.id)) ORDER BY customer",
        "SELECT customer FROM events WHERE kind = 'visit' EXCEPT SELECT customer FROM events WHERE kind = 'order' "
        "ORDER BY 1",
        "SELECT customer FROM events WHERE kind = 'visit' INTERSECT SELECT customer FROM sales ORDER BY customer",
        "SELECT count(*) AS n FROM customers WHERE id NOT IN (SELECT customer FROM sales WHERE customer IS NOT NULL)",
        "SELECT isfinite(max(at)) AS f, extract(isodow FROM max(at)) AS d FROM events",
        "SELECT justify_days(interval '40 days') AS j, make_interval(0, 0, 0, 3) AS m",
        "SELECT customer, greatest(max(at), timestamptz '2026-04-01') AS g FROM events GROUP BY customer ORDER BY 1",
    ],
    "top n": [
        "SELECT id, total FROM sales ORDER BY total DESC, id LIMIT 10",
        "SELECT id, total FROM sales ORDER BY total DESC, id FETCH FIRST 3 ROWS ONLY",
        "SELECT id, qty FROM sales ORDER BY qty DESC FETCH FIRST 3 ROWS WITH TIES",
        "SELECT id FROM sales ORDER BY id LIMIT ALL OFFSET 55",
        "SELECT id FROM sales ORDER BY id LIMIT 2 + 1",
        ("SELECT id, total FROM sales WHERE (total, id) < ($1, $2) ORDER BY total DESC, id DESC LIMIT 5",
         [300, 50]),
        ("SELECT id, created FROM sales WHERE (created, id) > ($1, $2) ORDER BY created, id LIMIT 5",
         ["2026-03-01 00:00:00+00:00", 0]),
        "SELECT region, id, total FROM (SELECT region, id, total, row_number() OVER (PARTITION BY region ORDER BY total "
        "DESC, id) AS r FROM sales) x WHERE r <= 3 ORDER BY region, r",
        "SELECT r.region, t.id, t.total FROM (SELECT DISTINCT region FROM sales) r, LATERAL (SELECT id, total FROM "
        "sales s WHERE s.region = r.region ORDER BY total DESC, id LIMIT 2) t ORDER BY r.region, t.total DESC",
        "SELECT id, rank() OVER (ORDER BY qty DESC) AS r, dense_rank() OVER (ORDER BY qty DESC) AS d FROM sales "
        "ORDER BY id LIMIT 12",
        "SELECT mode() WITHIN GROUP (ORDER BY category) AS most, count(*) AS n FROM sales WHERE id < 20",
        "SELECT DISTINCT ON (region, category) region, category, id FROM sales ORDER BY region, category, total DESC, id",
        "SELECT id FROM sales WHERE note IS DISTINCT FROM 'x' AND category IS NOT DISTINCT FROM 'toys' ORDER BY id",
        "SELECT item, max(total) AS top FROM sales GROUP BY item ORDER BY top DESC NULLS LAST, item LIMIT 3",
        "(SELECT id, 'top' AS what FROM sales ORDER BY total DESC, id LIMIT 2) UNION ALL (SELECT id, 'last' FROM sales "
        "ORDER BY total, id LIMIT 2) ORDER BY 2, 1",
        "SELECT u.id, s.item FROM unnest(ARRAY[3, 1, 2]) WITH ORDINALITY AS u(id, place) JOIN sales s ON s.id = u.id "
        "ORDER BY u.place",
        ("SELECT u.id, s.item FROM unnest($1::int[]) AS u(id) LEFT JOIN sales s USING (id) ORDER BY u.id", [[2, 1002]]),
        "VALUES (1, 'a'), (2, 'b') ORDER BY 1",
        "SELECT count(*) AS n FROM sales WHERE qty BETWEEN 2 AND 5 AND NOT (region = 'north' OR category = 'toys')",
    ],
    "json events": [
        "SELECT props ->> 'page' AS page, count(*) AS n FROM events GROUP BY 1 ORDER BY 1",
        "SELECT id, props -> 'geo' AS geo, props #>> '{geo,city}' AS city, props -> 'geo' ->> 'city' AS c FROM events "
        "ORDER BY id LIMIT 5",
        "SELECT avg((props ->> 'ms')::int) AS ms FROM events",
        "SELECT sum((props ->> 'ms')::numeric) AS ms FROM events WHERE props ->> 'page' = '/cart'",
        "SELECT id FROM events WHERE props @> '{\"beta\": true}' ORDER BY id",
        "SELECT id FROM events WHERE (props ->> 'beta')::boolean AND props ? 'items' ORDER BY id",
        "SELECT id FROM events WHERE props ?& ARRAY['page', 'ms'] AND NOT props ?| ARRAY['x', 'y'] ORDER BY id LIMIT 4",
        "SELECT e.id, i.value ->> 'sku' AS sku FROM events e CROSS JOIN LATERAL jsonb_array_elements(e.props -> 'items') "
        "AS i(value) ORDER BY 1, 2",
        "SELECT i.item ->> 'sku' AS sku, sum((i.item ->> 'n')::int) AS n FROM events, jsonb_array_elements(props -> "
        "'items') AS i(item) GROUP BY 1 ORDER BY 1",
        "SELECT jsonb_array_length(props -> 'items') AS n, count(*) AS c FROM events GROUP BY 1 ORDER BY 1",
        "SELECT jsonb_object_agg(kind, n) AS o FROM (SELECT kind, count(*) AS n FROM events GROUP BY kind) x",
        "SELECT jsonb_agg(id ORDER BY id) AS ids FROM events WHERE id < 6",
        "SELECT jsonb_build_object('id', id, 'tags', tags, 'at', at) AS o FROM events ORDER BY id LIMIT 3",
        "SELECT k.key, count(*) AS n FROM events, jsonb_each(props) AS k GROUP BY k.key ORDER BY k.key",
        "SELECT DISTINCT k AS key FROM events, jsonb_object_keys(props) AS k ORDER BY key",
        "SELECT jsonb_typeof(props -> 'items') AS t, count(*) AS n FROM events GROUP BY 1",
        ("SELECT id FROM events WHERE props @> $1::jsonb ORDER BY id", [{"geo": {"city": "Bonn"}}]),
        "SELECT t.tag, count(*) AS n FROM events, unnest(tags) AS t(tag) GROUP BY t.tag ORDER BY t.tag",
        "SELECT id FROM events WHERE 'red' = ANY(tags) ORDER BY id",
        "SELECT id, cardinality(tags) AS c, array_length(tags, 1) AS l, tags[1] AS first FROM events ORDER BY id LIMIT 6",
        "SELECT id FROM events WHERE tags && ARRAY['green', 'x'] OR tags @> ARRAY['red', 'blue'] ORDER BY id",
        "SELECT id, array_to_string(tags, ', ') AS t FROM events ORDER BY id LIMIT 6",
        "SELECT percentile_cont(0.95) WITHIN GROUP (ORDER BY (props ->> 'ms')::int) AS p95 FROM events",
        "SELECT kind, percentile_disc(0.5) WITHIN GROUP (ORDER BY (props ->> 'ms')::int) AS p50 FROM events GROUP BY "
        "kind ORDER BY kind",
        "SELECT array_agg(DISTINCT props ->> 'page' ORDER BY props ->> 'page') AS pages FROM events",
        "SELECT props -> 'items' -> 0 ->> 'sku' AS first FROM events ORDER BY id LIMIT 4",
    ],
    "finance": [
        "SELECT sum(total) AS t, sum(total) * 0.19 AS tax, round(sum(total) * 1.19, 2) AS gross FROM sales",
        "SELECT stddev(total) AS s, variance(total) AS v, stddev_pop(qty) AS p FROM sales",
        "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY price) AS median FROM sales",
        "SELECT corr(qty, price) AS c, regr_slope(price, qty) AS s FROM sales",
        "SELECT id, total, sum(total) OVER (ORDER BY created, id) AS balance FROM sales ORDER BY created, id",
        "SELECT id, total::text AS t, to_char(total, 'FM999G990D00') AS f FROM sales ORDER BY id LIMIT 5",
        "SELECT ceil(total) AS c, floor(total) AS f, abs(-qty) AS a, mod(qty, 3) AS m, qty % 3 AS n FROM sales "
        "ORDER BY id LIMIT 5",
        "SELECT sqrt(qty) AS s, power(qty, 2) AS p, qty ^ 2 AS q, ln(qty) AS l, exp(1) AS e, sign(-2) AS g FROM sales "
        "ORDER BY id LIMIT 5",
        "SELECT id, coalesce(nullif(note, ''), '-') AS n FROM sales ORDER BY id LIMIT 8",
        "SELECT greatest(qty, 5) AS g, least(qty, 5) AS l FROM sales ORDER BY id LIMIT 6",
        "SELECT category, sum(total) AS t, sum(sum(total)) OVER (ORDER BY category) AS running FROM sales GROUP BY "
        "category ORDER BY category",
        "SELECT extract(year FROM day) AS y, extract(quarter FROM day) AS q, sum(total) AS t FROM sales GROUP BY 1, 2 "
        "ORDER BY 1, 2",
        "SELECT id, total FROM sales WHERE total > (SELECT avg(total) FROM sales) ORDER BY id",
        "WITH m AS (SELECT date_trunc('month', day)::date AS m, sum(total) AS t FROM sales GROUP BY 1) SELECT m, t, "
        "round(100 * (t - lag(t) OVER w) / lag(t) OVER w, 1) AS growth FROM m WINDOW w AS (ORDER BY m) ORDER BY m",
        "SELECT max(total) OVER (ORDER BY id ROWS BETWEEN 2 PRECEDING AND 2 FOLLOWING EXCLUDE CURRENT ROW) AS m FROM "
        "sales ORDER BY id LIMIT 8",
        "SELECT num_nulls(note, item) AS n, count(*) AS c FROM sales GROUP BY 1 ORDER BY 1",
        "SELECT 7::numeric / 2 AS a, 7 / 2 AS b, 5.5 % 2 AS c, round(2.5) AS d",
    ],
    "support desk": [
        "SELECT agent, count(*) AS n, count(closed) AS closed, avg(extract(epoch FROM closed - opened)) / 3600 AS hours "
        "FROM tickets GROUP BY agent ORDER BY agent",
        "SELECT priority, count(*) FILTER (WHERE closed IS NULL) AS open FROM tickets GROUP BY priority ORDER BY priority",
        "SELECT id, upper(subject) AS s, left(subject, 4) AS l, right(subject, 2) AS r, length(subject) AS n FROM tickets "
        "ORDER BY id LIMIT 5",
        "SELECT initcap(agent) AS a, lpad(id::text, 5, '0') AS p, rpad(agent, 6, '.') AS q FROM tickets ORDER BY id "
        "LIMIT 5",
        "SELECT concat(agent, '-', subject) AS c, concat_ws(' / ', agent, NULL, subject) AS w FROM tickets ORDER BY id "
        "LIMIT 4",
        "SELECT replace(subject, 'Subject', '#') AS r, split_part(subject, ' ', 2) AS n, position('ject' IN subject) AS "
        "p, strpos(subject, 't') AS q FROM tickets ORDER BY id LIMIT 4",
        "SELECT trim(both 'S' FROM subject) AS a, ltrim(subject, 'Su') AS b, rtrim(subject, '0123456789') AS c, "
        "btrim('  x ') AS d, trim(subject) AS e FROM tickets ORDER BY id LIMIT 4",
        "SELECT substring(subject FROM 1 FOR 3) AS a, substring(subject, 5) AS b, reverse(agent) AS c, md5(agent) AS d, "
        "repeat('ab', 3) AS e, translate(agent, 'ae', 'xy') AS f FROM tickets ORDER BY id LIMIT 4",
        "SELECT id FROM tickets WHERE starts_with(subject, 'Subj') AND subject ILIKE '%1%' ORDER BY id",
        ("SELECT id FROM tickets WHERE subject LIKE $1 ESCAPE '!' ORDER BY id", ["%1!%"]),
        "WITH RECURSIVE tree(id, root, depth) AS (SELECT id, id, 0 FROM tickets WHERE parent IS NULL UNION ALL SELECT "
        "t.id, tree.root, tree.depth + 1 FROM tickets t JOIN tree ON t.parent = tree.id) SELECT root, count(*) AS n, "
        "max(depth) AS depth FROM tree GROUP BY root ORDER BY root",
        "WITH RECURSIVE path AS (SELECT id, subject::text AS path FROM tickets WHERE parent IS NULL UNION ALL SELECT t.id,"
        " path.path || ' > ' || t.subject FROM path JOIN tickets t ON t.parent = path.id) SELECT id, path FROM path "
        "ORDER BY id",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10) SELECT i FROM n ORDER BY i",
        "SELECT E'a\\tb' AS t, 'it''s' AS q, ascii('A') AS a, chr(66) AS c",
        "SELECT id, closed - opened AS took, age(closed, opened) AS age FROM tickets WHERE closed IS NOT NULL ORDER BY id",
        "SELECT agent, count(*) AS n FROM tickets WHERE opened > now() - interval '1000 years' GROUP BY agent "
        "ORDER BY n DESC, agent",
        "SELECT agent, max(priority) AS p FROM tickets GROUP BY agent HAVING count(*) > 2 ORDER BY agent",
        "SELECT id FROM tickets WHERE lower(subject) = 'subject 3' OR agent IN ('ann') ORDER BY id",
        "SELECT CAST(id AS varchar(2)) AS v, id::smallint AS s, '12'::int AS i, 'true'::boolean AS b FROM tickets "
        "ORDER BY id LIMIT 3",
        "SELECT coalesce(closed, opened) AS last FROM tickets ORDER BY id LIMIT 6",
        "SELECT string_to_array('a,b,c', ',') AS a, array_position(ARRAY['x','y'], 'y') AS p",
    ],
    "geo": [
        "SELECT round(lat) AS lat, round(lon) AS lon, count(*) AS n FROM tickets GROUP BY 1, 2 ORDER BY 1, 2",
        "SELECT id, 6371 * acos(least(1, sin(radians(lat)) * sin(radians(50)) + cos(radians(lat)) * cos(radians(50)) * "
        "cos(radians(lon - 7)))) AS km FROM tickets ORDER BY km, id LIMIT 5",
        ("SELECT id FROM tickets WHERE lat BETWEEN $1 AND $2 AND lon BETWEEN $3 AND $4 ORDER BY id", [46, 50, 2, 9]),
        "SELECT min(lat) AS s, max(lat) AS n, min(lon) AS w, max(lon) AS e FROM tickets",
        "SELECT floor(lat / 2) * 2 AS cell, count(*) AS n FROM tickets GROUP BY 1 ORDER BY 1",
        "SELECT id, degrees(atan2(lat - 50, lon - 7)) AS angle, pi() AS pi FROM tickets ORDER BY id LIMIT 4",
        "SELECT width_bucket(lat, 44, 56, 4) AS band, count(*) AS n FROM tickets GROUP BY band ORDER BY band",
        "SELECT a.id, b.id AS near FROM tickets a JOIN tickets b ON b.id > a.id AND abs(a.lat - b.lat) < 1 AND "
        "abs(a.lon - b.lon) < 1 ORDER BY 1, 2 LIMIT 10",
        "SELECT jsonb_build_object('type', 'Point', 'coordinates', jsonb_build_array(lon, lat)) AS g FROM tickets "
        "ORDER BY id LIMIT 3",
        "SELECT trunc.lat, count(*) AS n FROM (SELECT lat::int AS lat FROM tickets) trunc GROUP BY trunc.lat ORDER BY 1",
    ],
}
ALL = [(kind, *(one if isinstance(one, tuple) else (one, []))) for kind, some in DASHBOARDS.items() for one in some]
"""(kind, text, parameters) of every statement."""
