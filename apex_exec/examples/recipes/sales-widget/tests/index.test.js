// What the widget promises: rows are checked, and an empty table is a sentence.

import assert from "node:assert/strict";
import test from "node:test";
import { FakePlatform } from "@apex-exec/plugin/testing";
import plugin from "../index.js";

async function widget(rows) {
  const platform = new FakePlatform(plugin, { query: rows });
  const { customWidgets } = await platform.call("onDashboardLoad", { dashboardId: "main" });
  return customWidgets[0];
}

test("good rows are drawn with numbers, others are counted", async () => {
  const drawn = await widget([{ product: "Tea", total: "12.50", sold: 3 }, { product: "", total: "x", sold: 1 }]);
  assert.deepEqual(drawn.props, { rows: [{ product: "Tea", total: 12.5, sold: 3 }], unread: 1 });
});

test("without sales there is a sentence", async () => {
  assert.equal((await widget([])).component, "Text");
});
