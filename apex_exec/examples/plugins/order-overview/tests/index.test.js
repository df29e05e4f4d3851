import assert from "node:assert/strict";
import test from "node:test";
import { FakePlatform } from "@apex-exec/plugin/testing";
import orders from "../index.js";

const rows = [{ id: 1, amount: 5 }, { id: 2, amount: 7 }];
const query = (sql) => (sql.includes("count(*)") ? [{ n: 2, total: 12 }] : rows);

test("the caller's orders are counted, and the platform hears of it", async () => {
  const platform = new FakePlatform(orders, { query });
  const answer = await platform.call("onActionExecute", { action: "orders", context: {} });
  assert.deepEqual(answer, { result: { count: 2, total: 12, largest: 7 }, metadata: { shown: 2 } });
  assert.deepEqual(platform.calls.map(([method]) => method), ["query", "query", "emit"]);
});

test("a user without orders has an empty overview", async () => {
  const answer = await new FakePlatform(orders).call("onActionExecute", { action: "orders", context: {} });
  assert.deepEqual(answer.result, { count: 0, total: 0, largest: 0 });
});

test("another action is left to the next plugin, and nothing is asked", async () => {
  const platform = new FakePlatform(orders, { query });
  const answer = await platform.call("onActionExecute", { action: "echo", context: {} });
  assert.equal(answer.result, null);
  assert.equal(platform.calls.length, 0);
});
