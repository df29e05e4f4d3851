"""Every function and type that a plugin's SQL may use: one table each. The compiler takes everything from here. Pure.

What is not in these tables does not exist for plugins. No entry reaches outside the caller's rows: none reads a file, a
setting or a catalog, sleeps, locks, or opens a connection.
"""

from __future__ import annotations

import difflib

from msgspec import Struct

COUNT_MAX = 10_000
"""The largest literal count of ``repeat``, ``lpad`` and ``rpad``."""
FORMAT_CHARACTERS_MAX = 100
"""The longest format of ``to_char``, ``to_date`` and ``to_timestamp``: one pattern becomes some 40 bytes at most."""


class Form(Struct, frozen=True):
    """One function."""

    name: str
    kind: str
    """``value``, ``aggregate`` (FILTER, OVER), ``kept`` (an aggregate that holds every value: FILTER, no OVER),
    ``ordered`` (an aggregate with WITHIN GROUP), ``window`` (with OVER only) or ``rows`` (in FROM)."""
    arguments: tuple[str, ...]
    """What each argument is. ``?`` marks optional ones, ``*`` the last if there may be more of it or none. The compiler
    insists on: ``count`` (a whole number as a literal), ``format`` and ``unit`` (a text as a literal or a parameter),
    ``constant`` (a literal or a parameter)."""
    cost: str
    """The rule in ``growth`` that bounds its result and its work."""
    sqlite: str
    """How SQLite computes it: a function's name or an expression of {0}, {1}, …; empty if only PostgreSQL does."""
    postgres: str = ""
    """As ``sqlite``, where PostgreSQL needs more than the name and the arguments."""

    @property
    def least(self) -> int:
        """The fewest arguments."""
        return sum(not word.endswith(("?", "*")) for word in self.arguments)

    @property
    def most(self) -> int:
        """The most arguments."""
        return 100 if self.arguments and self.arguments[-1].endswith("*") else len(self.arguments)

    def word(self, number: int) -> str:
        """What argument ``number`` is, without marks."""
        return self.arguments[min(number, len(self.arguments) - 1)].rstrip("?*") if self.arguments else ""

    def signature(self) -> str:
        """As the documentation shows it: ``left(text, number)``."""
        marks = {"*": "…", "?": "?"}
        words = [word.rstrip("?*") + marks.get(word[-1], "") for word in self.arguments]
        return f"{self.name}({', '.join(words)})"


_FLOAT = "{name}(CAST({0} AS DOUBLE PRECISION))"
_FLOATS = "{name}(CAST({0} AS DOUBLE PRECISION), CAST({1} AS DOUBLE PRECISION))"
_AS_FLOAT = "CAST({call} AS DOUBLE PRECISION)"

# name           | kind      | arguments               | cost    | SQLite   | PostgreSQL, if not name(arguments)
_TABLE = f"""
count            | aggregate | value                   | small   | count
sum              | aggregate | number                  | sum     | sum
avg              | aggregate | number                  | average | avg      | {_AS_FLOAT}
min              | aggregate | value                   | copy    | min
max              | aggregate | value                   | copy    | max
bool_and         | aggregate | condition               | flag    | min
bool_or          | aggregate | condition               | flag    | max
every            | aggregate | condition               | flag    | min
stddev           | aggregate | number                  | average |          | {_AS_FLOAT}
stddev_pop       | aggregate | number                  | average |          | {_AS_FLOAT}
stddev_samp      | aggregate | number                  | average |          | {_AS_FLOAT}
variance         | aggregate | number                  | average |          | {_AS_FLOAT}
var_pop          | aggregate | number                  | average |          | {_AS_FLOAT}
var_samp         | aggregate | number                  | average |          | {_AS_FLOAT}
corr             | aggregate | number number           | float   |          | {_FLOATS}
covar_pop        | aggregate | number number           | float   |          | {_FLOATS}
covar_samp       | aggregate | number number           | float   |          | {_FLOATS}
regr_slope       | aggregate | number number           | float   |          | {_FLOATS}
regr_intercept   | aggregate | number number           | float   |          | {_FLOATS}
regr_r2          | aggregate | number number           | float   |          | {_FLOATS}
string_agg       | kept      | text constant           | kept    |
array_agg        | kept      | value                   | kept    |
json_agg         | kept      | value                   | kept    |
jsonb_agg        | kept      | value                   | kept    |
json_object_agg  | kept      | text value              | kept    |
jsonb_object_agg | kept      | text value              | kept    |
percentile_cont  | ordered   | number                  | copy    |
percentile_disc  | ordered   | number                  | copy    |
mode             | ordered   |                         | copy    |
row_number       | window    |                         | small   | row_number
rank             | window    |                         | small   | rank
dense_rank       | window    |                         | small   | dense_rank
percent_rank     | window    |                         | small   | percent_rank
cume_dist        | window    |                         | small   | cume_dist
ntile            | window    | number                  | small   | ntile
lag              | window    | value number? value?    | largest | lag
lead             | window    | value number? value?    | largest | lead
first_value      | window    | value                   | copy    | first_value
last_value       | window    | value                   | copy    | last_value
nth_value        | window    | value number            | copy    | nth_value
coalesce         | value     | value value*            | largest | coalesce
nullif           | value     | value value             | copy    | nullif
greatest         | value     | value value*            | largest | pg_greatest
least            | value     | value value*            | largest | pg_least
num_nulls        | value     | value value*            | small   |
num_nonnulls     | value     | value value*            | small   |
grouping         | value     | value value*            | small   |
lower            | value     | text                    | letters | pg_lower
upper            | value     | text                    | letters | pg_upper
initcap          | value     | text                    | letters | pg_initcap
trim             | value     | text constant?          | needle  | trim
length           | value     | text                    | small   | length
char_length      | value     | text                    | small   | length
character_length | value     | text                    | small   | length
octet_length     | value     | text                    | small   |
substr           | value     | text number number?     | cut     | pg_substr
substring        | value     | text number number?     | cut     | pg_substr
left             | value     | text number             | cut     | pg_left
right            | value     | text number             | cut     | pg_right
btrim            | value     | text constant?          | needle  | trim
ltrim            | value     | text constant?          | needle  | ltrim
rtrim            | value     | text constant?          | needle  | rtrim
replace          | value     | text constant constant  | replace | pg_replace
translate        | value     | text constant constant  | needle  |
reverse          | value     | text                    | copy    | pg_reverse
repeat           | value     | text count              | repeat  | pg_repeat
lpad             | value     | text count constant?    | pad     | pg_lpad
rpad             | value     | text count constant?    | pad     | pg_rpad
concat           | value     | value value*            | texts   | pg_concat
concat_ws        | value     | constant value value*   | joined  | pg_concat_ws
split_part       | value     | text constant number    | needle  | pg_split_part
strpos           | value     | text constant           | search  | pg_strpos
position         | value     | text constant           | search  | pg_strpos | pg_catalog.strpos({{0}}, {{1}})
starts_with      | value     | text text               | flag    | pg_starts_with
ascii            | value     | text                    | small   |
chr              | value     | number                  | small   |
md5              | value     | text                    | hash    | pg_md5
encode           | value     | bytes format            | twice   |
string_to_array  | value     | text constant           | split   |
to_hex           | value     | number                  | small   |
abs              | value     | number                  | copy    | abs
round            | value     | number number?          | round   | pg_round | {_AS_FLOAT}
sign             | value     | number            | small   |          | pg_catalog.sign(CAST({{0}} AS DOUBLE PRECISION))
ceil             | value     | number                  | copy    |
ceiling          | value     | number                  | copy    |
floor            | value     | number                  | copy    |
mod              | value     | number number           | product | pg_mod
sqrt             | value     | number                  | float   |          | {_FLOAT}
cbrt             | value     | number                  | float   |          | {_FLOAT}
exp              | value     | number                  | float   |          | {_FLOAT}
ln               | value     | number                  | float   |          | {_FLOAT}
log              | value     | number                  | float   |          | {_FLOAT}
log10            | value     | number                  | float   |          | {_FLOAT}
power            | value     | number number           | float   |          | {_FLOATS}
pow              | value     | number number           | float   |          | {_FLOATS}
pi               | value     |                         | float   |
degrees          | value     | number                  | float   |          | {_FLOAT}
radians          | value     | number                  | float   |          | {_FLOAT}
sin              | value     | number                  | float   |          | {_FLOAT}
cos              | value     | number                  | float   |          | {_FLOAT}
tan              | value     | number                  | float   |          | {_FLOAT}
asin             | value     | number                  | float   |          | {_FLOAT}
acos             | value     | number                  | float   |          | {_FLOAT}
atan             | value     | number                  | float   |          | {_FLOAT}
atan2            | value     | number number           | float   |          | {_FLOATS}
width_bucket     | value     | number number number number | float |
now              | value     |                         | small   |
date_trunc       | value     | unit time text?         | small   | pg_date_trunc
date_part        | value     | unit time               | float   | pg_date_part
extract          | value     | unit time               | float   | pg_extract | EXTRACT({{unit}} FROM {{1}})
date_bin         | value     | interval time time      | small   |
age              | value     | time time?              | small   |
make_date        | value     | number number number    | small   |
make_timestamp   | value     | number number number number number number | small |
make_timestamptz | value     | number number number number number number text? | small |
make_time        | value     | number number number    | small   |
make_interval    | value     | number? number? number? number? number? number? number? | small |
to_char          | value     | time format             | format  | pg_to_char
to_date          | value     | text format             | small   |
to_timestamp     | value     | value format?           | small   |
timezone         | value     | text time               | small   |
justify_days     | value     | interval                | small   |
justify_hours    | value     | interval                | small   |
justify_interval | value     | interval                | small   |
isfinite         | value     | time                    | flag    |
array_length     | value     | array number            | small   |
cardinality      | value     | array                   | small   |
array_position   | value     | array value             | array   |
array_positions  | value     | array value             | array   |
array_append     | value     | array value             | array   |
array_prepend    | value     | value array             | array   |
array_cat        | value     | array array             | array   |
array_remove     | value     | array value             | array   |
array_to_string  | value     | array constant constant? | joined |
json_array_length          | value | json           | small   |
jsonb_array_length         | value | json           | small   |
json_typeof                | value | json           | small   |
jsonb_typeof               | value | json           | small   |
json_build_object          | value | value*         | json    |
jsonb_build_object         | value | value*         | json    |
json_build_array           | value | value*         | json    |
jsonb_build_array          | value | value*         | json    |
to_json                    | value | value          | json    |
to_jsonb                   | value | value          | json    |
json_extract_path          | value | json constant constant* | copy |
json_extract_path_text     | value | json constant constant* | copy |
jsonb_extract_path         | value | json constant constant* | copy |
jsonb_extract_path_text    | value | json constant constant* | copy |
json_strip_nulls           | value | json           | json    |
jsonb_strip_nulls          | value | json           | json    |
generate_series            | rows  | value value value? | small |
unnest                     | rows  | array          | copy    |
json_array_elements        | rows  | json           | copy    |
json_array_elements_text   | rows  | json           | copy    |
jsonb_array_elements       | rows  | json           | copy    |
jsonb_array_elements_text  | rows  | json           | copy    |
json_object_keys           | rows  | json           | copy    |
jsonb_object_keys          | rows  | json           | copy    |
json_each                  | rows  | json           | copy    |
json_each_text             | rows  | json           | copy    |
jsonb_each                 | rows  | json           | copy    |
jsonb_each_text            | rows  | json           | copy    |
"""


def _read() -> dict[str, Form]:
    forms: dict[str, Form] = {}
    for line in _TABLE.strip().splitlines():
        name, kind, arguments, cost, sqlite, postgres, *_ = [part.strip() for part in f"{line} | |".split("|")]
        forms[name] = Form(name, kind, tuple(arguments.split()), cost, sqlite, postgres)
    return forms


FORMS = _read()
"""By name."""

PAIRS = frozenset({"json_each", "json_each_text", "jsonb_each", "jsonb_each_text"})
"""The functions whose rows have two columns, ``key`` and ``value``."""

UNITS = frozenset("century day decade dow doy epoch hour isodow isoyear julian microseconds millennium milliseconds "
                  "minute month quarter second week year timezone".split())
"""The fields of ``extract``."""

CLAUSES = """SELECT DISTINCT, DISTINCT ON (…) · FROM, JOIN … ON, USING, NATURAL, LATERAL
WITH, WITH RECURSIVE, MATERIALIZED
VALUES (…), (…) · WHERE · GROUP BY, GROUPING SETS, ROLLUP, CUBE · HAVING · WINDOW · UNION, INTERSECT, EXCEPT
ORDER BY … NULLS FIRST · LIMIT, LIMIT ALL, OFFSET, FETCH FIRST n ROWS ONLY, WITH TIES"""
"""The clauses of a query."""
OPERATORS = """+ - * / % ^ || · = <> < > <= >= · AND OR NOT · IS NULL, IS TRUE, IS DISTINCT FROM · BETWEEN · IN · EXISTS
LIKE, ILIKE, ESCAPE · = ANY (…), <> ALL (…) with a list parameter, an array or a query · (a, b) > ($1, $2)
ARRAY[…], a[1], a[1:2] · -> ->> #> #>> @> <@ ? ?| ?& && · AT TIME ZONE · CASE · CAST, :: · INTERVAL '…' · E'…'"""
"""The operators."""


class Type(Struct, frozen=True):
    """A type to which a value may be cast."""

    name: str
    postgres: str
    sqlite: str
    """Empty if SQLite has nothing that behaves like it."""
    sized: int = 0
    """How many numbers in brackets may follow."""
    size_max: int = 0
    """The largest such number."""


# sqlglot's name: (name, PostgreSQL, SQLite, numbers in brackets, the largest)
TYPES = {
    "SMALLINT": Type("smallint", "SMALLINT", "INTEGER"), "INT": Type("int", "INTEGER", "INTEGER"),
    "BIGINT": Type("bigint", "BIGINT", "INTEGER"), "DOUBLE": Type("double precision", "DOUBLE PRECISION", "REAL"),
    "FLOAT": Type("real", "REAL", "REAL"), "DECIMAL": Type("numeric", "NUMERIC", "NUMERIC", 2, 1000),
    "TEXT": Type("text", "TEXT", "TEXT"), "VARCHAR": Type("varchar", "VARCHAR", "TEXT", 1, 10_485_760),
    "CHAR": Type("char", "CHAR", "", 1, 10_000),
    "UUID": Type("uuid", "UUID", "TEXT"), "BOOLEAN": Type("boolean", "BOOLEAN", "INTEGER"),
    "DATE": Type("date", "DATE", "TEXT"), "TIME": Type("time", "TIME", "", 1, 6),
    "TIMESTAMP": Type("timestamp", "TIMESTAMP", "", 1, 6),
    "TIMESTAMPTZ": Type("timestamptz", "TIMESTAMPTZ", "TEXT", 1, 6),
    "INTERVAL": Type("interval", "INTERVAL", ""), "JSON": Type("json", "JSON", ""), "JSONB": Type("jsonb", "JSONB", ""),
}
"""None of them names an object of the database."""
TYPE_NAMES = f"{' '.join(one.name for one in TYPES.values())}, and arrays of them"
"""The list in error messages."""

INSTEAD = {
    "regexp_replace": "replace, translate or split_part", "regexp_match": "LIKE, strpos or split_part",
    "regexp_matches": "LIKE, strpos or split_part", "regexp_split_to_array": "string_to_array",
    "regexp_split_to_table": "unnest(string_to_array(…))", "regexp_substr": "split_part or substr",
    "random": "order the rows in the plugin", "format": "concat or ||", "to_number": "a cast to numeric",
    "string_to_table": "unnest(string_to_array(…))", "row_to_json": "jsonb_build_object('name', column, …)",
    "array_to_json": "to_jsonb", "json_to_recordset": "jsonb_array_elements and ->>",
    "jsonb_to_recordset": "jsonb_array_elements and ->>", "json_populate_record": "->>",
    "jsonb_path_query": "jsonb_array_elements and ->>", "jsonb_path_exists": "@>",
    "jsonb_path_query_first": "->> or #>>", "ifnull": "coalesce", "isnull": "coalesce", "nvl": "coalesce",
    "group_concat": "string_agg", "datediff": "a subtraction of dates", "date_add": "+ interval '…'",
    "dateadd": "+ interval '…'", "date_format": "to_char", "strftime": "to_char", "date": "a cast to date",
    "julianday": "extract(julian from …)", "unix_timestamp": "extract(epoch from …)", "year": "extract(year from …)",
    "month": "extract(month from …)", "day": "extract(day from …)", "if": "CASE WHEN … THEN … ELSE … END",
    "iif": "CASE WHEN … THEN … ELSE … END", "instr": "strpos", "len": "length", "median": "percentile_cont(0.5) "
    "WITHIN GROUP (ORDER BY …)", "total": "coalesce(sum(…), 0)", "clock_timestamp": "now()",
    "statement_timestamp": "now()", "transaction_timestamp": "now()", "timeofday": "now()", "current_time": "now()",
    "json_extract": "->>", "json_object": "jsonb_build_object", "json_array": "jsonb_build_array",
    "current_user": "the caller, whose rows are the only ones", "array": "array_agg, or ARRAY[…]",
    "session_user": "the caller, whose rows are the only ones", "count_if": "count(*) FILTER (WHERE …)",
}
"""What to use in place of functions that people try."""


def instead_of(name: str) -> str:
    """What to use in place of the function ``name``, or nothing."""
    if name in INSTEAD:
        return INSTEAD[name]
    close = difflib.get_close_matches(name, FORMS, 3, 0.75)
    return " or ".join(close)


def listed() -> str:
    """The table as the documentation shows it, in Markdown."""
    titles = {"aggregate": "Aggregates, with DISTINCT, FILTER and OVER", "kept": "Aggregates that keep every value, "
              "with DISTINCT, ORDER BY and FILTER", "ordered": "Aggregates with WITHIN GROUP (ORDER BY …)",
              "window": "Window functions", "value": "Functions", "rows": "Functions in FROM"}
    lines = ["| | on both databases | on PostgreSQL only |", "|---|---|---|"]
    for kind, title in titles.items():
        forms = [form for form in FORMS.values() if form.kind == kind]
        both, one = ([f"`{form.signature()}`" for form in forms if bool(form.sqlite) == wanted]
                     for wanted in (True, False))
        lines.append(f"| {title} | {' '.join(both)} | {' '.join(one)} |")
    types = [[f"`{one.name}`" for one in TYPES.values() if bool(one.sqlite) == wanted] for wanted in (True, False)]
    lines.append(f"| Casts | {' '.join(types[0])} | {' '.join(types[1])}, arrays |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(f"{listed()}\n\n{CLAUSES}\n\n{OPERATORS}")
