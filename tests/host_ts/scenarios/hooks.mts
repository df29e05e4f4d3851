/** The typed client runs every hook, lists, dispatches, cancels by AbortSignal and checks sizes before sending. */

import assert from "node:assert/strict";

import {
  ApexClient, CallError, Cancelled, InvalidRequest, LimitExceeded, NotServed, PluginFailed,
} from "../../../apex_exec/examples/host-ts/client.js";
import { done, ENDPOINT, USER } from "./support.mjs";

const client = new ApexClient(ENDPOINT);
const welcome = await client.hello();
assert.equal(welcome.protocol, 1);
assert.equal(client.maxMessageBytes, welcome.limits.maxMessageBytes);
await client.ping();
const listed = await client.plugins(USER);
assert.deepEqual(listed.filter((p) => p.id.startsWith("echo-")).map((p) => [p.id, p.state]),
  ["a", "b", "c", "d"].map((letter) => [`echo-${letter}`, "enabled"]));

for (const { id } of listed.filter((p) => p.id.startsWith("echo-"))) {
  const loaded = await client.invoke(id, "onDashboardLoad", USER, { dashboardId: "n1" });
  assert.deepEqual(loaded.result.customWidgets[0]!.props, { nonce: "n1", fill: "", user: USER });
  const fetched = await client.invoke(id, "onDataFetch", USER, { query: "n2", filters: {} });
  assert.deepEqual(fetched.result.transformedData, { nonce: "n2", fill: "", plugin: id, user: USER });
  const acted = await client.invoke(id, "onActionExecute", USER, { action: "echo", context: { deep: [1, { a: null }] } });
  assert.deepEqual(acted.result, { result: { deep: [1, { a: null }] }, metadata: { plugin: id, user: USER } });
  assert.equal(typeof acted.usage.executionTimeMs, "number");
  assert.deepEqual(acted.effects, []);
  assert.equal((await client.invoke(id, "onAuthSuccess", USER, { sessionId: "s" })).result, null);
}

const all = await client.dispatch("onDashboardLoad", USER, { dashboardId: "n" });
assert.deepEqual(all.result!.customWidgets.map((w) => w.id), ["boss/w", "echo-a/w", "echo-b/w", "echo-c/w", "echo-d/w"]);
assert.equal((await client.dispatch("onAuthSuccess", USER, { sessionId: "s" })).result, null);

async function refused(promise: Promise<unknown>): Promise<CallError> {
  return promise.then(() => assert.fail("it was not refused"), (error) => {
    assert(error instanceof CallError, String(error));
    return error;
  });
}
const action = (name: string) => ({ action: name, context: {} });
const missing = await refused(client.invoke("nobody", "onAuthSuccess", USER, { sessionId: "s" }));
assert(missing instanceof NotServed && missing.code === "PLUGIN_NOT_FOUND" && !missing.started);
const large = await refused(client.invoke("echo-a", "onDataFetch", USER, { query: "x".repeat(2_000_000), filters: {} }));
assert(large instanceof InvalidRequest && large.code === "PAYLOAD_TOO_LARGE");
const cyclic: Record<string, unknown> = {};
cyclic["self"] = cyclic;
assert((await refused(client.invoke("echo-a", "onActionExecute", USER, { action: "echo", context: cyclic })))
  instanceof InvalidRequest);
const raised = await refused(client.invoke("echo-a", "onActionExecute", USER, { action: "raise", context: { nonce: "7" } }));
assert(raised instanceof PluginFailed && raised.started && /nonce 7/.test(raised.message));
const begun = Date.now();
const slow = await refused(client.invoke("echo-b", "onActionExecute", USER, action("hang"), { deadlineMs: 300 }));
assert(slow instanceof LimitExceeded && slow.code === "TIMEOUT" && Date.now() - begun < 3000);
const aborted = await refused(client.invoke("echo-b", "onActionExecute", USER, action("hang"),
  { signal: AbortSignal.timeout(200) }));
assert(aborted instanceof Cancelled && aborted.started);
const early = new AbortController();
early.abort();
assert(await refused(client.invoke("echo-b", "onAuthSuccess", USER, { sessionId: "s" }, { signal: early.signal }))
  instanceof Cancelled);
client.close();
await assert.rejects(client.ping(), { name: "ConnectionLost", retryable: true });
done({ ok: true });
