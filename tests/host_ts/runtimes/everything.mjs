/**
 * What a host does with the packed npm package, on whichever runtime executes this file: calls, errors, aborts, host
 * methods, the audit, a peer that sends nonsense, a daemon that is killed and comes again, and an end by itself.
 *
 *   RUNTIME everything.mjs HOST ADMIN NONSENSE     (one line on stdin when the daemon is dead, another when it is back)
 */

import { createInterface } from "node:readline";

import {
  ApexClient, CallError, Cancelled, ConnectionLost, HostMethodError, InvalidRequest, LimitExceeded, NotServed, PluginFailed,
} from "@apex-exec/host";

const [endpoint, adminEndpoint, nonsense] = process.argv.slice(2);
const USER = "11111111-2222-4333-8444-555555555555";
const seen = {};
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const say = (word) => process.stdout.write(`${word}\n`);
const act = (client, plugin, action, context = {}, options = {}) =>
  client.invoke(plugin, "onActionExecute", USER, { action, context }, options);
const caught = (promise) => promise.then((value) => ({ value }), (error) => error);

const events = [];
const client = new ApexClient(endpoint);
client.on("connect", () => events.push("connect")).on("disconnect", () => events.push("disconnect"));
const welcome = await client.hello();
seen.welcome = [welcome.protocol, welcome.server.startsWith("apex-exec/"), client.maxMessageBytes];

const widgets = (await client.invoke("echo-a", "onDashboardLoad", USER, { dashboardId: "d" })).result.customWidgets;
const fetched = (await client.invoke("echo-b", "onDataFetch", USER, { query: "q", filters: {} })).result.transformedData;
const login = (await client.invoke("echo-c", "onAuthSuccess", USER, { sessionId: "s" })).result;
const all = await client.dispatch("onDashboardLoad", USER, { dashboardId: "d" });
seen.hooks = [widgets[0].props.nonce, fetched.nonce, login, all.result.customWidgets.length, all.partial];

const moment = new Date("2026-01-31T12:00:00.123Z");
const values = { text: "é😀", float: 1.5, int: 2 ** 53 - 1, list: [1, [null]], bytes: new Uint8Array([0, 255]), moment, left: undefined };
const back = (await act(client, "echo-a", "echo", values)).result.result;
seen.values = {
  ...back, bytes: [back.bytes instanceof Uint8Array, back.bytes.constructor.name, ...back.bytes],
  moment: back.moment instanceof Date && back.moment.toISOString(),
};

const sizes = [0, 1, 255, 256, 65_535, 65_536, 900_000];
const fills = await Promise.all(sizes.map((size) => act(client, "echo-d", "echo", { fill: "x".repeat(size) })));
seen.sizes = fills.map((reply) => reply.result.result.fill.length);

const many = await Promise.all(Array.from({ length: 400 }, (_, n) => act(client, `echo-${"abcd"[n % 4]}`, "echo", { n })));
seen.many = many.every((reply, n) => reply.result.result.n === n);

const kinds = { CallError, Cancelled, ConnectionLost, InvalidRequest, LimitExceeded, NotServed, PluginFailed };
const kindOf = (error) => [Object.keys(kinds).filter((name) => error instanceof kinds[name]).join(" "), error.code, error.started];
const begun = performance.now();
seen.errors = (await Promise.all([
  act(client, "nobody", "echo"), act(client, "echo-a", "raise", { nonce: "7" }),
  client.invoke("echo-a", "onDataFetch", USER, { query: 5, filters: {} }), act(client, "echo-a", "echo", { fill: "x".repeat(2_000_000) }),
  act(client, "echo-b", "hang", {}, { deadlineMs: 300 }), act(client, "echo-c", "hang", {}, { signal: AbortSignal.timeout(200) }),
  act(client, "echo-d", "hang", {}, { signal: AbortSignal.abort() }),
].map(caught))).map(kindOf);
seen.soon = performance.now() - begun < 4000;

await client.provide({
  "admin.users.list": async ({ params, plugin, userId }) => ({ params, plugin, userId }),
  "admin.users.fail": () => { throw new HostMethodError("no_such_user", "there is none"); },
});
seen.provided = (await act(client, "boss", "call", { method: "admin.users.list", params: { page: 1 } })).result.result;
const refused = await caught(act(client, "boss", "call", { method: "admin.users.fail", params: {} }));
seen.refused = [...kindOf(refused), refused.details.apiCode, /no_such_user|there is none/.test(refused.message)];

const admin = new ApexClient(adminEndpoint);
const { events: rows, next } = await admin.readAudit(0, 5, { type: "plugin.execution" });
seen.audit = [rows.length, rows.every((row) => row.eventType === "plugin.execution"), next >= rows.at(-1).seq];
await admin[Symbol.asyncDispose]();

const hostile = new ApexClient(nonsense);
const outcomes = await Promise.all(Array.from({ length: 60 }, (_, n) => act(hostile, "p", "n", { n: n + 1 }).then(
  (reply) => reply.result?.context?.n ?? "read", (error) => error.code)));
seen.nonsense = outcomes.filter((_, n) => n % 2).every((outcome, n) => outcome === 2 * n + 2)
  && outcomes.filter((_, n) => n % 2 === 0).every((outcome) => ["PROTOCOL_ERROR", "read"].includes(outcome));
await hostile[Symbol.asyncDispose]();

const pending = Array.from({ length: 20 }, (_, n) => caught(act(client, `echo-${"abcd"[n % 4]}`, "hang", {}, { deadlineMs: 8000 })));
await client.ping();  // behind the twenty: the daemon has them
say("pending");
await lines.next();
seen.lost = (await Promise.all(pending)).filter((error) => error instanceof ConnectionLost && error.executed === undefined).length;
const gone = await caught(act(client, "echo-a", "echo", {}, { deadlineMs: 100 }));
seen.unsent = [gone.code, gone.executed, gone.retryable];
const waiting = act(client, "echo-a", "echo", { back: true }, { deadlineMs: 30_000 });
say("away");
await lines.next();
seen.again = (await waiting).result.result;
seen.providedAgain = (await act(client, "boss", "call", { method: "admin.users.list", params: {} })).result.result.plugin;
seen.events = events;
await client[Symbol.asyncDispose]();
seen.closed = (await caught(client.ping())).executed;

const left = new ApexClient(endpoint);
await left.ping();
left.unref();
const away = new ApexClient(`${endpoint}.nobody`).unref();
say(JSON.stringify(seen));
void away;
process.stdin.destroy();  // two clients are open, and the process ends by itself
