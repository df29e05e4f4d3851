// Reads lines of JSON {text, owners, tables} and writes, for each, a line of JSON: what PostgreSQL's own parser finds in
// the text that must not be there. Used by test_splices.
const { loadModule, parseSync } = require("libpg-query");
const lines = require("node:readline").createInterface({ input: process.stdin });
const rules = JSON.parse(process.argv[2]);
const set = (name) => new Set(rules[name]);
const nodes = set("nodes"), functions = set("functions"), ours = set("ours"), types = set("types");
const made = /^(__|@_|_value$|_size$|_number$|step$|column\d+$)/;
const last = (list) => list[list.length - 1];
const words = (list) => list.map((one) => (one.String ? one.String.sval : "*"));

function check({ text, owners, tables }) {
  const wrong = [];
  let tree;
  try { tree = parseSync(text); } catch (error) { return [`not parsed: ${error.message}`]; }
  if (tree.stmts.length !== 1 || !tree.stmts[0].stmt.SelectStmt) return ["not one SELECT"];

  // the fence of a table: its owner first, then comparisons of its own columns with values that are known
  function fence(select, table) {
    const shown = tables[table.relname];
    const own = (node) => node && node.ColumnRef && words(node.ColumnRef.fields).length === 2 &&
      words(node.ColumnRef.fields)[0] === table.relname && words(node.ColumnRef.fields)[1];
    const conditions = select.whereClause && select.whereClause.BoolExpr && select.whereClause.BoolExpr.boolop === "AND_EXPR"
      ? select.whereClause.BoolExpr.args : [select.whereClause];
    const first = conditions[0] && conditions[0].A_Expr;
    if (!first || first.kind !== "AEXPR_OP" || first.name[0].String.sval !== "=" || own(first.lexpr) !== shown.owner ||
        !first.rexpr.ParamRef || !owners.includes(first.rexpr.ParamRef.number)) wrong.push(`no owner's condition for ${table.relname}`);
    if (select.fromClause.length !== 1 || !(select.limitOffset || select.limitCount)) wrong.push("no fence");
    for (const target of select.targetList)
      if (!shown.columns.includes(own(target.ResTarget.val))) wrong.push("a column that is not shown");
    const simple = (node) => {
      if (Array.isArray(node)) return node.every(simple);
      if (!node || typeof node !== "object") return true;
      if (node.ColumnRef) return [...shown.columns, "tableoid"].includes(own(node));
      if (node.FuncCall || node.SubLink || node.CoalesceExpr || node.CaseExpr) return false;
      return Object.values(node).every(simple);
    };
    if (!conditions.slice(1).every(simple) || !(select.sortClause || []).every(simple)) wrong.push("a condition inside that may fail");
  }

  function walk(node, inside) {
    if (Array.isArray(node)) return node.forEach((one) => walk(one, inside));
    if (!node || typeof node !== "object") return;
    for (const [kind, value] of Object.entries(node)) {
      if (/^[A-Z]/.test(kind) && !nodes.has(kind)) wrong.push(`a node ${kind}`);
      if (kind === "lockingClause" || kind === "intoClause") wrong.push(kind);
      let fenced = inside;
      if (value && value.fromClause) {
        const tables_ = value.fromClause.filter((one) => one.RangeVar && !/^__\d+$/.test(one.RangeVar.relname));
        for (const one of tables_) {
          if (!tables[one.RangeVar.relname] || one.RangeVar.schemaname) wrong.push(`the table ${one.RangeVar.relname}`);
          else { fence(value, one.RangeVar); fenced = true; }
        }
      } else if (kind === "JoinExpr") {
        for (const side of [value.larg, value.rarg])
          if (side.RangeVar && !/^__\d+$/.test(side.RangeVar.relname)) wrong.push("a table in a join without a fence");
      } else if (kind === "FuncCall") {
        const name = words(value.funcname);
        const known = name.length === 2 ? name[0] === "pg_catalog" && functions.has(name[1]) : ours.has(name[0]);
        if (!known) wrong.push(`the function ${name.join(".")}`);
        if (name[0] === "set_config" && value.args[0].A_Const.sval.sval !== "apex_exec.held") wrong.push("a setting");
      } else if (kind === "ColumnRef" && !inside) {
        for (const word of words(value.fields)) if (word !== "*" && !made.test(word)) wrong.push(`the name ${word}`);
      } else if (kind === "typeName" || kind === "TypeName") {
        if (!types.has(last(words(value.names)))) wrong.push(`the type ${last(words(value.names))}`);
      }
      walk(value, fenced);
    }
  }
  walk(tree.stmts[0].stmt, false);
  return wrong;
}

const ready = loadModule(); // a line that comes before the parser is loaded waits for it
lines.on("line", (line) => ready.then(() => console.log(JSON.stringify(check(JSON.parse(line))))));
