"""Counters in JavaScript: whatever is valid stays valid and does the same, and what has run is what counts."""

from __future__ import annotations

import json

import pytest

from apex_exec.registry.scan.javascript.counters import Unparsable, points_of, with_counters
from tests.support import need

try:
    from workers.javascript import engine
except ImportError:
    engine = None  # type: ignore[assignment]  # tests need it

AWKWARD = [
    "if(a)b;else if(c)d;else e", "if(a)if(b)c;else d", "for(;;)if(a)break", "a:for(const x of y)continue a",
    "const f=x=>({a:1}), g=async x=>await x, h=(a=1,{b=2}={})=>a?b:c&&d||e",
    "switch(a){case 1:b;break;case c&&d:default:e}", "'use strict';x", "function f(){'use strict';return 1}",
    "export default {a(){return 1},get b(){return 2}}",
    "export const a=1,b=2;export{a as c};export*from'x';export default function(){return 1}",
    "class A{static{x()} #p=a??b; m(){} static n=()=>1}", "do x();while(a)", "try{a}catch{b}finally{c}",
    "const {a=1,...r}=b, [c=2]=d", "x=a\n;[1].map(y=>y)", "const t=`a${b&&c}d`",
    "async function*g(){for await(const x of y)yield* x}", "(a,b)=>{}", "a?.b?.(c??d)", "let x=a\n++b", "if(a){}else{}",
    "while(a);", "label:{break label}", "x = function(){ return a }()", "export default async (c) => c.a",
    "export default class{}", "if(a)var q=1", "for(let i=0,n=a||b;i<n;i++)c", "new (a||b)()", "a=b=c||d", "!(a&&b)",
    "delete a.b, void 0", "x=>y=>z", "x=>x?y:z", "import.meta.url;import('x')", "var {x:y=z&&w}=a", "a ||= b",
    "function f(a=b||c){}", "if(a){b}\nelse\nc", "do x(); while(a) y()", "if(a)/*c*/b/*d*/\nelse/*e*/f",
    "switch(a){case b:{c}}", "const o={f:a||(()=>1)}", "export {a as catch}; const a=1", "for(const k in a&&b)c",
    "const f=()=>{}\n/a//b;c()", "export default class{}\n/[/]//b;c()", "#!node\u2028const a=b",
    "\ufeff#!node\rconst a=b",
    "\ufeffconst a=1", "#!/usr/bin/env node\nconst a=1", "class A extends (a||B){constructor(){a&&super()}}",
    "const {[a&&b]:c=d?e:f}=g", "if(a);else;", "a&&b||c&&d", "(a??b)&&c", "async()=>{for await(const x of y);}",
    "var a=1;{function f(){}}", "if(a)for(const x of y)if(x)z;else;else w", "x=a?b?c:d:e?f:g", "throw a||b",
]
"""Sources in which a counter that is put a character too early or too late is an error, or changes the meaning."""


def compiled(source: bytes) -> object:
    need(engine is not None, "quickjs-ng is not installed")
    made = engine.Engine(4 << 20)
    made.load_modules(lambda name: b"export const counters=[];" if name.startswith("apex:") else b"export const a=1")
    try:
        return made.compile(source, "p/x.js", module=True)
    finally:
        made.unload()


@pytest.mark.parametrize("source", AWKWARD)
def test_what_the_engine_takes_it_takes_with_counters(source: str) -> None:
    body = source.encode()
    made = with_counters(body, "x.js", "c0")
    compiled(made.source)
    assert made.source.count(b"\n") == body.count(b"\n"), "no line moves"
    assert made.points == points_of(body)


def ran(source: str) -> tuple[object, list[int], list[int]]:
    """(what the source sets as ``result``, the lines that ran, the lines that did not)."""
    need(engine is not None, "quickjs-ng is not installed")
    made = with_counters(source.encode(), "x.js", "c0")
    text = made.source.decode()
    head = text.index(";") + 1
    context = engine.Engine(4 << 20)
    script = f"const c0 = new Array({len(made.points)}).fill(0); let result; (() => {{ {text[head:]}\n}})();"
    result, counts = json.loads(context.evaluate(script + "JSON.stringify([result, c0])"))
    hit = {point.line for point, count in zip(made.points, counts, strict=True) if count}
    return result, sorted(hit), sorted({point.line for point in made.points} - hit)


@pytest.mark.parametrize(("source", "result", "missed"), [
    ("let a = 1\nif (a > 2) {\na = 5\n}\nelse a = 7\nresult = a", 7, [3]),
    ("const f = (x) =>\n x\n ? 'yes'\n : 'no'\nresult = f(1)", "yes", [4]),
    ("const f = (a, b =\n 3) =>\n a + b\nresult = f(1, 2)", 3, [2]),
    ("result = 0\nfor (const x of [])\n result++\nwhile (result > 9)\n result--", 0, [3, 5]),
    ("switch (2) {\ncase 1:\n result = 1\n break\ncase 2:\n result = 2\n break\ndefault:\n result = 3\n}", 2,
     [3, 4, 9]),
    ("result = null ??\n 4\nresult = result ||\n 5", 4, [4]),
    ("try {\n result = 1\n throw 0\n} catch {\n result = 2\n} finally {\n result += 1\n}", 3, []),
    ("function* g() {\n yield 1\n yield 2\n}\nfor (const x of g()) {\n result = x\n break\n}", 1, [3]),
    ("class A {\n m() {\n return 1\n }\n n() {\n return 2\n }\n}\nresult = new A().n()", 2, [3]),
    ("const o = { f: null || (() => 1) }\nresult = [o.f.name, (() => {}).name]", ["", ""], []),
    ("let i = 0\nouter: for (;;) {\n for (;;) {\n if (++i > 3) break outer\n continue outer\n }\n}\nresult = i", 4, []),
])
def test_a_program_with_counters_does_the_same_and_says_what_ran(source: str, result: object,
                                                                 missed: list[int]) -> None:
    assert ran(source)[0] == result and ran(source)[2] == missed


def test_a_trap_stands_where_its_counter_stood() -> None:
    source = b"const a = 1;\nif (a) b();\n"
    here = frozenset(number for number, point in enumerate(points_of(source)) if point.line == 2)
    made = with_counters(source, "x.js", "c0", here, "t0").source
    head, _, body = made.partition(b'from"apex:t0";')
    assert b"import{t0}" in head and body.count(b"t0()") == len(here) == 3 and body.count(b"c0[") == 1


@pytest.mark.parametrize("source", [b"let x = ;", b"\xff\xfe", b"x" * 10 + b"("])
def test_what_cannot_be_parsed_is_refused(source: bytes) -> None:
    with pytest.raises(Unparsable):
        with_counters(source, "x.js", "c0")
