/**
 * An example host: says hello, runs each hook once, cancels one, sends one event to all.
 *
 *   npm run host -- ipc:///run/apex-exec/host.sock
 */

import { randomUUID } from "node:crypto";

import { ApexClient, CallError, Cancelled } from "./client.js";

const endpoint = process.argv[2] ?? "ipc:///run/apex-exec/host.sock";
const user = randomUUID();
const client = new ApexClient(endpoint);

try {
  const welcome = await client.hello();
  console.log(`${welcome.server}, isolation ${welcome.isolation}`);
  for (const plugin of await client.plugins(user)) {
    console.log(`  ${plugin.id} ${plugin.version}: ${plugin.hooks.join(", ")}`);
  }

  const loaded = await client.invoke("hello-world", "onDashboardLoad", user, { dashboardId: "main" });
  console.log("widgets:", loaded.result.customWidgets.map((widget) => widget.component));

  const fetched = await client.invoke("custom-analytics", "onDataFetch", user, { query: "sales", filters: { year: 2026 } });
  console.log("data:", fetched.result.transformedData);

  const acted = await client.invoke("action-router", "onActionExecute", user, { action: "echo", context: { n: 1 } });
  console.log("action:", acted.result.result, `in ${acted.usage.executionTimeMs.toFixed(2)} ms`);

  await client.invoke("login-audit", "onAuthSuccess", user, { sessionId: "s-1" });

  try {
    const patience = AbortSignal.timeout(100);
    await client.invoke("spinner", "onActionExecute", user, { action: "spin", context: {} }, { signal: patience });
  } catch (error) {
    if (!(error instanceof Cancelled)) throw error;
    console.log("spinner: cancelled after 100 ms");
  }

  const all = await client.dispatch("onDashboardLoad", user, { dashboardId: "main" });
  const failed = all.outcomes.filter((outcome) => !outcome.ok).map((outcome) => `${outcome.plugin} ${outcome.error?.code}`);
  console.log("dispatch:", all.result?.customWidgets.map((widget) => widget.id), "failed:", failed);
} catch (error) {
  console.error(error instanceof CallError ? error.message : String(error));
  process.exitCode = 1;
} finally {
  client.close();
}
