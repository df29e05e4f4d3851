"""PostgreSQL's types of a statement's values, found before SQLite runs it. Pure.

SQLite itself has five kinds of values and compares any with any; PostgreSQL computes by the type, and refuses what has
none. So each value gets the type that it would have in PostgreSQL, from the declared types of columns upwards, and what
PostgreSQL would refuse, or SQLite would answer otherwise, is refused by name. The types decide how operators are
written (``Writer.kind``), how parameters are converted (``needs``) and how results are read. ``type_names`` has their
names.
"""

from __future__ import annotations

from typing import Any

from sqlglot import exp

from apex_exec.gateway.sql.allowed import FORMS, Form
from apex_exec.gateway.sql.dialect import OPERATOR
from apex_exec.gateway.sql.sqlite_moments import OF_DAYS
from apex_exec.gateway.sql.type_names import (
    CAST_FROM,
    FREE,
    HINTS,
    INTS,
    LITERALS,
    NAMES,
    NULL,
    UNKNOWN,
    WORDS,
    is_number,
    number_kind,
    refused,
    scale,
    widest,
)

MOMENTS = frozenset({"date", "stamp", "time"})
_UNSORTED = frozenset({"json", "array", "time"})
"""Types whose order and equality SQLite does not have."""
_NO_EXTREMES = frozenset({"bool", "uuid", "json", "bytes", "array", "time"})
_JOINED = frozenset({"text", "uuid", "date", "int2", "int4", "int8", *FREE, ""})
"""What || takes: its text is the same in both databases."""
_COMPARISONS = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.NullSafeEQ, exp.NullSafeNEQ)
_TRUTHS = (exp.Predicate, exp.Connector, exp.Not, exp.Boolean, exp.Exists, exp.NullSafeEQ, exp.NullSafeNEQ, exp.Escape)
_TEXT_COSTS = frozenset("letters cut needle replace repeat pad texts joined hash format twice".split())
_SIGNS = {exp.Add: "+", exp.Sub: "-", exp.Mul: "*", exp.Div: "/", exp.Mod: "%"}
_T = exp.DataType.Type
_CASTS = {_T.SMALLINT: "int2", _T.INT: "int4", _T.BIGINT: "int8", _T.DOUBLE: "float", _T.TEXT: "text",
          _T.VARCHAR: "text", _T.UUID: "uuid", _T.BOOLEAN: "bool", _T.DATE: "date", _T.TIMESTAMPTZ: "stamp",
          _T.DECIMAL: "num", _T.FLOAT: "float"}


class Typer:
    """Finds the types of one statement's expressions, from the leaves to the root."""

    def __init__(self) -> None:
        self.kinds: dict[int, str] = {}
        """By the id of the node."""
        self.outputs: dict[int, list[str]] = {}
        """The types of a query's columns, by the id of its node."""
        self.needs: dict[int, set[str]] = {}
        """What each parameter has to be. ``compared`` before a number's type: any number may stand there."""

    def see(self, node: Any, found: str) -> str:
        """The type of ``node``; ``found`` is that of a column or a query. Raises ApiFailure: sql_not_on_sqlite."""
        kind = found or self._of(node)
        self.kinds[id(node)] = kind
        return kind

    def of(self, node: Any) -> str:
        """The type of a node that was seen."""
        return self.kinds.get(id(node), "") if node is not None else UNKNOWN

    def _of(self, node: Any) -> str:  # noqa: PLR0911 - one return for each kind of node
        kind = type(node)
        if kind is exp.Literal:
            return UNKNOWN if node.is_string else number_kind(str(node.this), node)
        if kind in (exp.Null, exp.Parameter):
            return NULL if kind is exp.Null else UNKNOWN
        if isinstance(node, _TRUTHS):
            self._truth(node)
            return "bool"
        if kind in (exp.Paren, exp.Window, exp.WithinGroup):
            return self.of(node.this)
        if kind is exp.Filter:
            self.condition(node.expression.this)
            return self.of(node.this)
        if kind is exp.Neg:
            return self._arithmetic(node, [node.this], "-")
        if kind in (exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod, exp.DPipe):
            return self._operation(node)
        if kind is exp.Cast:
            return self._cast(node)
        if kind is exp.Case:
            return self._case(node)
        if kind is exp.Anonymous and not node.args.get(OPERATOR):
            return self._call(node)
        return ""

    # ------------------------------------------------------------------ conditions
    def condition(self, node: Any) -> None:
        """``node`` stands where PostgreSQL takes a boolean only."""
        self._take(node, self.of(node), "bool")

    def _truth(self, node: Any) -> None:
        kind = type(node)
        if kind in (exp.And, exp.Or):
            left = node
            while type(left) is kind:
                self.condition(left.expression)
                self.kinds[id(left)] = "bool"
                left = left.this
            self.condition(left)
        elif kind is exp.Not:
            self.condition(node.this)
        elif kind is exp.Is and type(node.expression) is exp.Boolean:
            self.condition(node.this)
        elif kind is exp.Is and self.of(node.this) == UNKNOWN:
            self._take(node.this, UNKNOWN, "typed")
        elif kind in _COMPARISONS and type(node.expression) in (exp.Any, exp.All):
            self._listed(node)
        elif kind in _COMPARISONS:
            self._pairs(node, node.this, node.expression)
        elif kind is exp.Between:
            self.alike(node, [node.this, node.args["low"], node.args["high"]], "a comparison of", compared=True)
        elif kind is exp.In:
            query = node.args.get("query")
            if query is not None:
                inner = self.outputs.get(id(query.this if type(query) is exp.Subquery else query)) or [""]
                self._both(node, [self.of(node.this), inner[0]], [node.this], "IN with")
                return
            for one in node.expressions:
                self._pairs(node, node.this, one)
            if type(node.this) is not exp.Tuple:
                self.alike(node, [node.this, *node.expressions], "IN with", compared=True)
        elif kind in (exp.Like, exp.ILike):
            for one in (node.this, node.expression):
                self._take(one, self.of(one), "text")

    def _pairs(self, node: Any, left: Any, right: Any) -> None:
        if type(left) is exp.Tuple and type(right) is exp.Tuple:
            for one, other in zip(left.expressions, right.expressions, strict=False):
                self.alike(node, [one, other], "a comparison of", compared=True)
            return
        kind = self.alike(node, [left, right], "a comparison of", compared=True)
        if kind in _UNSORTED:
            raise refused(f"a comparison of {WORDS[kind]}", node)

    def _listed(self, node: Any) -> None:
        """``= ANY ($1)``: the elements have to be of the type of the other side."""
        kind, compared = self.of(node.this), node.expression.this
        while type(compared) is exp.Paren:
            compared = compared.this
        if type(compared) is exp.Parameter and kind not in ("", *MOMENTS, *_UNSORTED):
            self._need(compared, f"listed {kind}")
        elif kind:
            raise refused(f"ANY and ALL with {WORDS.get(kind, kind)}", node)

    # ------------------------------------------------------------------ operators
    def _operation(self, node: Any) -> str:
        kind, chain, left = type(node), [], node
        while type(left) is kind:
            chain.append(left)
            left = left.this
        found, before = self.of(left), left
        for one in reversed(chain):
            if kind is exp.DPipe:
                found = self._joined(one, before, one.expression)
            else:
                found = self._arithmetic(one, [before, one.expression], _SIGNS[kind])
            self.kinds[id(one)] = found
            before = one
        return found

    def _joined(self, node: Any, left: Any, right: Any) -> str:
        kinds = [self.of(left), self.of(right)]
        for one, kind in zip((left, right), kinds, strict=True):
            if kind not in _JOINED:
                raise refused(f"|| with {WORDS.get(kind, kind)}", node)
            if kind == UNKNOWN:
                self._take(one, kind, "text")
        if not {"text", *FREE, ""} & set(kinds):
            raise refused("|| without a text", node)
        return "text"

    def _arithmetic(self, node: Any, parts: list[Any], sign: str) -> str:
        kinds = [self.of(one) for one in parts]
        known = [kind for kind in kinds if kind not in FREE]
        if not known:
            raise refused(f"{sign} without a number of a known type (cast it)", node)
        if "" in known:
            return ""
        for kind in known:
            if not is_number(kind):
                raise refused(f"arithmetic with {WORDS.get(kind, kind)}", node)
        most = widest(known)
        for one, kind in zip(parts, kinds, strict=True):
            if kind == UNKNOWN:
                self._take(one, kind, most, how="operand ")
        if most == "float" or most in INTS:
            if sign == "%" and most == "float":
                raise refused("% with a double precision", node)
            return most
        if sign in "/%":
            more = "; cast one side to double precision" if sign == "/" else ""
            raise refused(f"{sign} with a numeric", node, more)
        scales = [0 if kind in INTS else scale(kind) for kind in known]
        if None in scales:
            raise refused("arithmetic with a numeric whose digits after the point are not declared", node)
        numbers = [scale for scale in scales if scale is not None]
        return f"num:{sum(numbers) if sign == '*' else max(numbers)}"

    def _cast(self, node: Any) -> str:
        inner, to, plain = self.of(node.this), node.args["to"].this, node.this
        while type(plain) is exp.Paren:
            plain = plain.this
        wanted = _CASTS.get(to, "")
        if to == _T.FLOAT:
            raise refused("a cast to real", node)
        if inner == UNKNOWN and type(plain) is exp.Parameter and wanted not in ("num", "bool", "stamp", "text"):
            self._need(plain, f"cast {wanted}")
            return wanted
        if inner in (NULL, ""):
            return wanted
        allowed = CAST_FROM.get(wanted, frozenset())
        if inner == UNKNOWN and type(plain) is exp.Literal:
            inner = "text" if wanted in (*INTS, "float", "num") or wanted in LITERALS and LITERALS[wanted].fullmatch(
                str(plain.this)) else UNKNOWN
            allowed |= {"text"}
        if inner == UNKNOWN and type(plain) is exp.Parameter:
            self._need(plain, "cast text" if wanted == "text" else "number" if wanted == "num" else wanted)
            return wanted
        if inner.partition(":")[0] not in allowed:
            raise refused(f"a cast to {NAMES.get(wanted, wanted)} of {WORDS.get(inner, inner)}", node)
        if wanted == "num":
            return inner if inner.startswith("num") else "num:0" if inner in INTS else "num"
        return wanted

    def _case(self, node: Any) -> str:
        for branch in node.args["ifs"]:
            if node.this is not None:
                self.alike(node, [node.this, branch.this], "CASE with", compared=True)
            else:
                self.condition(branch.this)
        given = [*(branch.args["true"] for branch in node.args["ifs"]), node.args.get("default")]
        return self.alike(node, [one for one in given if one is not None], "CASE with")

    # ------------------------------------------------------------------ functions
    def _call(self, node: Any) -> str:
        form = FORMS.get(str(node.this).lower())
        if form is None or not form.sqlite:
            return ""
        given = [one.this if isinstance(one, exp.Order) else one for one in node.expressions]
        given = [part for one in given for part in (one.expressions if isinstance(one, exp.Distinct) else [one])]
        if given and type(given[0]) is exp.Star:
            return "int8"
        kinds = [self.of(one) for one in given]
        if form.name in ("date_trunc", "extract", "date_part", "to_char"):
            return self._of_moment(node, form.name, given, kinds)
        for number, (one, kind) in enumerate(zip(given, kinds, strict=True)):
            self._argument(node, form, number, one, kind)
        return self._result(node, form, given, kinds)

    def _argument(self, node: Any, form: Form, number: int, one: Any, kind: str) -> None:
        word = form.word(number)
        if form.name in ("concat", "concat_ws"):
            word = "text"
        if word in ("text", "constant"):
            self._take(one, kind, "text", what=f"{form.name} with")
        elif word == "condition":
            self._take(one, kind, "bool")
        elif word == "number" and kind:
            first = number == 0 and form.cost in ("sum", "average", "copy", "round", "float", "product")
            if form.name == "mod" or not first:
                plain = one
                while type(plain) is exp.Paren:
                    plain = plain.this
                if form.kind == "window" and (type(plain) is not exp.Literal or plain.is_string):
                    raise refused(f"{form.name} with a number that is not a literal", node)
                if kind not in (*(INTS if form.name == "mod" else INTS[:2]), *FREE):
                    raise refused(f"{form.name} with {WORDS.get(kind, kind)} for a whole number", node)
                self._take(one, kind, "int4")
            elif kind != NULL and not is_number(kind):
                raise refused(f"{form.name} of {WORDS.get(kind, kind)}", node)
        elif word == "value" and kind == UNKNOWN and len(form.arguments) == 1 and type(one) is not exp.Null:
            raise refused(f"{form.name} of a value without a type (cast it)", node)

    def _result(self, node: Any, form: Form, given: list[Any], kinds: list[str]) -> str:  # noqa: PLR0911 - one a cost
        first = kinds[0] if kinds else ""
        if form.cost in _TEXT_COSTS:
            return "text"
        if form.cost in ("flag",):
            return "bool"
        if form.name in ("min", "max"):
            if first in _NO_EXTREMES:
                raise refused(f"{form.name} of {WORDS[first]}", node)
            return first
        if form.name in ("count", "row_number", "rank", "dense_rank"):
            return "int8"
        if form.cost in ("small", "search"):
            return "float" if form.name in ("percent_rank", "cume_dist") else "int4"
        if form.name in ("sum", "avg") and first.startswith("num:") and node.find(exp.Distinct):
            raise refused(f"{form.name} of DISTINCT numerics", node)
        if form.name == "sum":
            return {"int2": "int8", "int4": "int8", "int8": "num:0"}.get(first, first if first != "num:*" else "num")
        if form.cost in ("average", "float", "round"):
            return "float"
        if form.name == "mod":
            return widest([kind for kind in kinds if kind in INTS] or ["int4"]) if all(kinds) else ""
        if form.name in ("lag", "lead"):
            return self.alike(node, [given[0], *given[2:]], form.name)
        if form.name == "nullif":
            both = self.alike(node, given, "nullif with", compared=True)
            return first if first in INTS and kinds[1] in (*INTS, *FREE) or first == kinds[1] else both
        if form.cost == "largest":
            return self.alike(node, given, f"{form.name} with")
        if form.cost == "copy" and first == UNKNOWN and form.kind in ("window", "aggregate"):
            raise refused(f"{form.name} of a value without a type (cast it)", node)
        return first

    def _of_moment(self, node: Any, name: str, given: list[Any], kinds: list[str]) -> str:
        of = kinds[0] if name == "to_char" else kinds[1]
        if of not in ("date", "stamp") or len(given) > 2:
            raise refused(f"{name}, except of a date or a timestamptz in a column,", node)
        other = given[1 if name == "to_char" else 0]
        self._take(other, self.of(other), "text")
        field = str(given[0].this) if isinstance(given[0], exp.Literal) else ""
        if of == "date" and name in ("extract", "date_part") and field not in OF_DAYS:
            raise refused(f"{field or 'any field'} of a date", node)
        if name == "extract":
            return "num:6" if of == "stamp" and field in ("epoch", "second") else "num:0"
        return {"date_trunc": "stamp", "date_part": "float", "to_char": "text"}[name]

    # ------------------------------------------------------------------ one type for several values
    def alike(self, node: Any, parts: list[Any], what: str, *, compared: bool = False) -> str:
        """The one type of ``parts``, which PostgreSQL gives them all. Raises ApiFailure if there is none."""
        return self._both(node, [self.of(one) for one in parts], parts, what, compared=compared)

    def _both(self, node: Any, kinds: list[str], parts: list[Any], what: str, *, compared: bool = False) -> str:
        known = [kind for kind in kinds if kind not in FREE]
        if "" in known:
            for one, kind in zip(parts, kinds, strict=False):
                if kind == UNKNOWN and type(one) is exp.Parameter and (others := {*known} - {""}):
                    self._take(one, kind, sorted(others)[0], compared=compared)
            return ""
        if not known:
            for one, kind in zip(parts, kinds, strict=False):
                self._take(one, kind, "text", what=what)
            return "text" if UNKNOWN in kinds else NULL
        found = known[0]
        if any(kind != found for kind in known):
            if not all(map(is_number, known)):
                words = sorted({WORDS.get(kind, kind) for kind in known})
                raise refused(f"{what} {' and '.join(words)}", node)
            found = widest(known)
        if compared and found == "float" and "int8" in known:
            raise refused(f"{what} a bigint and a double precision", node, "; cast one of them")
        for one, kind in zip(parts, kinds, strict=False):
            if kind == UNKNOWN:
                self._take(one, kind, found, compared=compared, what=what)
        return found

    def columns(self, node: Any, left: list[str], right: list[str]) -> list[str]:
        """The types of the columns of a set operation. A literal has the type of a text there, or of the other side."""
        found = []
        for one, other in zip(left, right, strict=False):
            if UNKNOWN in (one, other) and {one, other} - {UNKNOWN, NULL, "text", ""}:
                raise refused(f"{node.key.upper()} with a value without a type (cast it)", node)
            kind = self._both(node, [one, other], [], f"{node.key.upper()} of")
            if kind in _UNSORTED and node.args.get("distinct"):
                raise refused(f"{node.key.upper()} of {WORDS[kind]}", node)
            found.append(kind)
        return found

    def sorted(self, node: Any, kind: str) -> None:
        """``node`` decides an order, or which rows are equal."""
        plain = node
        while type(plain) in (exp.Paren, exp.Neg):
            plain = plain.this
        if type(plain) in (exp.Literal, exp.Null, exp.Boolean) and (
                type(node) is not exp.Literal or node.is_string or not str(node.this).isdigit()):
            raise refused("an order or a group by a constant", node)
        if kind in _UNSORTED:
            raise refused(f"an order or a group by {WORDS[kind]}", node)

    def _take(self, node: Any, kind: str, wanted: str, *, compared: bool = False, how: str = "",
              what: str = "") -> None:
        """``node`` stands where ``wanted`` is taken: it is of that type, or has none yet and may become it."""
        plain = node
        while type(plain) is exp.Paren:
            plain = plain.this
        if kind == NULL:
            return
        if kind != UNKNOWN:
            if kind and wanted and kind != wanted and not (is_number(kind) and is_number(wanted)):
                raise refused(f"{what} {WORDS.get(kind, kind)} in place of {WORDS.get(wanted, wanted)}".strip(),
                                   node)
            return
        if type(plain) is exp.Parameter:
            self._need(plain, f"{'compared ' if compared and is_number(wanted) else how}{wanted}")
        elif type(plain) is exp.Literal and wanted != "typed":
            known = LITERALS.get(wanted)
            if wanted and (known is None or not known.fullmatch(str(plain.this))):
                words = f"{what or 'an expression of'} {WORDS.get(wanted, wanted)} and this literal in quotes"
                raise refused(words, node, HINTS.get(wanted, ""))
        elif type(plain) not in (exp.Null, exp.Literal) and wanted not in ("text", ""):
            raise refused(f"a value without a type in place of {WORDS.get(wanted, wanted)}", node)

    def _need(self, parameter: Any, kind: str) -> None:
        self.needs.setdefault(int(str(parameter.this.this)), set()).add(kind)
