import assert from "node:assert/strict";
import test from "node:test";
import { FakePlatform } from "@apex-exec/plugin/testing";
import hello from "../index.js";

test("the dashboard gets one widget", async () => {
  const result = await new FakePlatform(hello).call("onDashboardLoad", { dashboardId: "main" });
  assert.deepEqual(result.customWidgets, [
    { id: "hello-widget", component: "HelloWorld", props: { message: "Hello from plugin!" } },
  ]);
});
