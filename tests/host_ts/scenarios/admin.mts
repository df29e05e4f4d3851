/**
 * A host that administers: registers the document's object, installs, enables, verifies, disables, drains; and serves
 * host methods. The codes that only an administered daemon gives are seen on the way.
 *
 *   node admin.mjs HOST ADMIN BUNDLE JS_BUNDLE
 */

import assert from "node:assert/strict";

import {
  AdminRefused, ApexClient, ApiRefused, Busy, CallError, HostMethodError, NotServed, PluginFailed, type Registration,
} from "../../../apex_exec/examples/host-ts/client.js";
import { done, USER } from "./support.mjs";

const [endpoint, adminEndpoint, bundle, tsBundle] = process.argv.slice(2) as [string, string, string, string];
const client = new ApexClient(endpoint);
const admin = new ApexClient(adminEndpoint);
const seen: string[] = [];

async function refused<T extends CallError>(kind: new (...args: any[]) => T, code: string, promise: Promise<unknown>) {
  const error = await promise.then(() => assert.fail(`${code} was due`), (reason: unknown) => reason);
  assert(error instanceof kind, String(error));
  assert.equal(error.code, code, String(error));
  seen.push(code);
  return error;
}

// The document's registration object, unchanged but for the language of its entry point.
const registration: Registration = {
  id: "custom-analytics",
  name: "Custom Analytics Dashboard",
  version: "1.0.0",
  author: "ACME Corp",
  permissions: ["data:read", "ui:render"],
  manifest: {
    entrypoint: "/plugins/custom-analytics/index.py",
    hooks: ["onDashboardLoad", "onDataFetch"],
  },
};
const ops = await admin.admin<{ operations: { name: string; args: object }[] }>("ops");
const names = ops.operations.map((operation) => operation.name);
for (const wanted of ["plugin.register", "plugin.install", "plugin.enable", "plugin.disable", "plugin.verify", "plugin.approve",
  "plugin.upgrade", "plugin.rollback", "plugin.remove", "plugin.list", "plugin.show", "daemon.status", "daemon.reload",
  "daemon.drain"]) assert(names.includes(wanted), `${wanted} is not among ${names}`);

const typescript = { ...registration, manifest: { ...registration.manifest, entrypoint: "/plugins/custom-analytics/index.ts" } };
const ts = await refused(CallError, "INVALID_INPUT", admin.admin("plugin.register", { path: tsBundle, manifest: typescript }));
assert.match(JSON.stringify(ts.details), /"unsupported_runtime"/);
// A bundle may be larger than what a host may send to the other endpoint: here the daemon says what is wrong with it.
await refused(CallError, "INVALID_INPUT", admin.admin("plugin.register", { bundle: new Uint8Array(2_000_000) }));
const registered = await admin.admin<{ id: string; state: string }>("plugin.register", { path: bundle, manifest: registration });
assert.deepEqual([registered.id, registered.state], ["custom-analytics", "registered"]);
const dashboard = () => client.invoke("custom-analytics", "onDashboardLoad", USER, { dashboardId: "main" });
await refused(NotServed, "PLUGIN_DISABLED", dashboard()).catch(() => refused(NotServed, "PLUGIN_NOT_FOUND", dashboard()));

await admin.admin("plugin.install", { path: bundle }, 60_000);
await admin.admin("plugin.enable", { id: "custom-analytics" });
const listed = await admin.admin<{ plugins: { id: string; state: string }[] }>("plugin.list");
assert.equal(listed.plugins.find((plugin) => plugin.id === "custom-analytics")?.state, "enabled");
assert((await client.plugins(USER)).some((plugin) => plugin.id === "custom-analytics"));
assert.equal((await dashboard()).result.customWidgets[0]!.component, "Chart");
await admin.admin("plugin.verify", { id: "custom-analytics" }, 60_000);
await admin.admin("plugin.disable", { id: "custom-analytics" });
await refused(NotServed, "PLUGIN_DISABLED", dashboard());
await refused(AdminRefused, "NOT_FOUND", admin.admin("plugin.show", { id: "nobody" }));
await refused(CallError, "INVALID_INPUT", admin.admin("plugin.show", { ident: "nobody" }));

// Host methods.
const call = (method: string, params = {}) =>
  client.invoke("boss", "onActionExecute", USER, { action: "call", context: { method, params } });
await refused(ApiRefused, "NOT_PROVIDED", call("admin.users.list"));
const asked: unknown[] = [];
const provider = new ApexClient(endpoint);
await provider.provide({
  "admin.users.list": async (asking) => {
    asked.push([asking.method, asking.params, asking.plugin, asking.userId]);
    return { users: [1, 2] };
  },
  "admin.users.fail": () => { throw new HostMethodError("no_such_user", "there is none"); },
  "admin.users.bug": () => { throw new Error("a secret of the host"); },
});
assert.deepEqual((await call("admin.users.list", { page: 1 })).result.result, { users: [1, 2] });
assert.deepEqual(asked, [["admin.users.list", { page: 1 }, "boss", USER]]);
const failed = await refused(PluginFailed, "PLUGIN_ERROR", call("admin.users.fail"));
assert.match(failed.message, /there is none|no_such_user/);
const bug = await refused(PluginFailed, "PLUGIN_ERROR", call("admin.users.bug"));
assert(!JSON.stringify(bug.reply).includes("a secret of the host"));
await refused(ApiRefused, "PERMISSION_DENIED", call("admin.billing.pay"));
provider.close();

// Refused by a rate, by a breaker, by the end.
await refused(ApiRefused, "RATE_LIMITED",
  client.invoke("boss", "onActionExecute", USER, { action: "fetch", context: { url: "https://api.example.com/" } }));
for (let n = 0; n < 20; n++) {
  const crash = await client.invoke("echo-d", "onActionExecute", USER, { action: "exit", context: {} })
    .catch((error: CallError) => error);
  assert(crash instanceof CallError);
  if (crash.code === "WORKER_CRASHED") continue;
  assert(crash instanceof Busy && crash.code === "QUARANTINED" && crash.retryable, String(crash));
  assert(Number(crash.details["retryAfterMs"]) > 0);
  seen.push(crash.code);
  break;
}
const last = client.invoke("echo-b", "onActionExecute", USER, { action: "hang", context: {} }, { deadlineMs: 1000 })
  .catch((error: CallError) => error.code);
await client.ping();
await admin.admin("daemon.drain");
await refused(Busy, "SHUTTING_DOWN", client.invoke("echo-a", "onAuthSuccess", USER, { sessionId: "s" }));
assert.equal(await last, "TIMEOUT");
client.close();
admin.close();
done({ codes: [...new Set(seen)].sort() });
