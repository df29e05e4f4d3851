// What the chart promises: days in order, a smooth second line, nothing without data.

import assert from "node:assert/strict";
import test from "node:test";
import { FakePlatform } from "@apex-exec/plugin/testing";
import plugin from "../index.js";

async function widgets(rows, days) {
  const platform = new FakePlatform(plugin, { query: rows, settings: { days } });
  return (await platform.call("onDashboardLoad", { dashboardId: "main" })).customWidgets;
}

test("the latest day stands at the right, and the average looks back", async () => {
  const [chart] = await widgets([{ day: "2026-01-03", visits: "9" }, { day: "2026-01-02", visits: 2 },
    { day: "2026-01-01", visits: 4 }], 2);
  assert.deepEqual(chart.props.labels, ["2026-01-01", "2026-01-02", "2026-01-03"]);
  assert.deepEqual(chart.props.series.map((line) => line.points), [[4, 2, 9], [4, 3, 5.5]]);
  assert.equal(chart.props.series[1].name, "Average of 2 days");
});

test("without visits there is no widget", async () => {
  assert.deepEqual(await widgets([], 7), []);
});
