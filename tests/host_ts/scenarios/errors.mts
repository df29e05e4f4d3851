/** Every error that a host can cause on a host endpoint, by bare messages. Prints the codes that were seen. */

import assert from "node:assert/strict";

import { encode } from "@msgpack/msgpack";
import { Dealer, Request } from "zeromq";

import { act, Bare, done, ENDPOINT, invoke, type Message, USER } from "./support.mjs";

const bare = new Bare(ENDPOINT);
const seen = new Set<string>();
let id = 0;

/** Sends one message and holds its one reply to `code`, to its own id, and to what else is `expected`. */
async function refuses(code: string, message: Message | Uint8Array, expected: Message = {}): Promise<Message> {
  const reply = await bare.ask(message);
  assert.equal(reply["type"], "error", JSON.stringify(reply));
  assert.equal(reply["code"], code, JSON.stringify(reply));
  assert.equal(typeof reply["message"], "string");
  assert(!reply["message"].includes("\n") && !reply["message"].includes("/site-packages/"));
  assert.equal(typeof reply["started"], "boolean");
  assert.equal(typeof reply["retryable"], "boolean");
  assert(!(reply["started"] && reply["retryable"]), "what may have run is not to be tried again");
  const whole: Message = { id: message instanceof Uint8Array ? null : (message["id"] ?? null), ...expected };
  for (const [key, value] of Object.entries(whole)) assert.deepEqual(reply[key], value, JSON.stringify(reply));
  seen.add(code);
  return reply;
}

// Not this protocol.
for (const body of [[], [0xc1], [0x93, 1, 2, 3], [...Buffer.from("GET / HTTP/1.1")], [0x81, 0xa4]]) {
  await refuses("PROTOCOL_ERROR", Uint8Array.from(body));
}
await refuses("PROTOCOL_ERROR", { type: "nonsense", id: ++id });
for (const bad of [-1, 1.5, "", "x".repeat(65), null, [1], undefined, true, 2 ** 64]) {
  await refuses("PROTOCOL_ERROR", { type: "ping", id: bad }, { id: null });
}
await refuses("UNSUPPORTED_PROTOCOL", { type: "hello", id: ++id, protocol: [2, 3] });

// Too much.
await refuses("PAYLOAD_TOO_LARGE", { type: "ping", id: ++id, fill: "x".repeat(1_100_000) });
let deep: unknown = 1;
for (let level = 0; level < 70; level++) deep = { deep };
await refuses("PAYLOAD_TOO_LARGE", encode(invoke(++id, act("echo", { deep })), { maxDepth: 200 }), { id });

// The envelope and the payload.
const path = async (where: string, message: Message): Promise<void> => {
  const reply = await refuses("INVALID_INPUT", message);
  assert.equal(reply["details"]?.path, where, JSON.stringify(reply));
};
await path("$.action", invoke(++id, { action: "a".repeat(101) }));
await path("$.userId", invoke(++id, { userId: "no-uuid" }));
await path("$.userId", invoke(++id, { userId: USER.replaceAll("-", "") }));
await path("$.userId", invoke(++id, { userId: 7 }));
await path("$.plugin", invoke(++id, { plugin: 7 }));
await path("$.deadlineMs", invoke(++id, { deadlineMs: 0 }));
await path("$.deadlineMs", invoke(++id, { deadlineMs: "soon" }));
await refuses("INVALID_INPUT", invoke(++id, { payload: null }));
await refuses("INVALID_INPUT", invoke(++id, { payload: [1] }));
await path("$.payload.context", invoke(++id, { payload: { action: "echo", context: 7 } }));
await path("$.payload.dashboardId", invoke(++id, { action: "onDashboardLoad", payload: { dashboardId: 7 } }));
await refuses("INVALID_INPUT", invoke(++id, { action: "onDataFetch", payload: { query: "q" } }));
await path("$.payload.userId", invoke(++id, {
  action: "onAuthSuccess", payload: { sessionId: "s", userId: USER.replace("1", "2") },
}));
await refuses("INVALID_INPUT", { type: "dispatch", id: ++id, action: "onNothing", userId: USER });

// Nobody serves it.
await refuses("PLUGIN_NOT_FOUND", invoke(++id, { plugin: "nobody" }));
await refuses("HOOK_NOT_DECLARED", invoke(++id, { plugin: "unloadable", action: "onDataFetch" }));
await refuses("HOOK_NOT_DECLARED", invoke(++id, { action: "onNothing" }));

// The plugin's fault.
const auth = { action: "onAuthSuccess", payload: { sessionId: "s" } };
await refuses("BOOT_FAILED", invoke(++id, { plugin: "unloadable", ...auth }));
const raised = await refuses("PLUGIN_ERROR", invoke(++id, act("raise", { nonce: "n" })), { started: true });
assert.equal(raised["details"].exception, "ValueError");
assert(raised["details"].traceback.includes("plugin.py"));
for (const what of ["wrong", "huge", "nan"]) await refuses("INVALID_OUTPUT", invoke(++id, act(what)), { started: true });
await refuses("INVALID_OUTPUT", invoke(++id, act("large")), { started: true });
await refuses("INVALID_OUTPUT", invoke(++id, { ...auth, payload: { sessionId: "s", speak: true } }));
await refuses("WORKER_CRASHED", invoke(++id, act("exit")), { started: true, retryable: false, details: { exitCode: 3 } });
await refuses("TIMEOUT", invoke(++id, { ...act("hang"), deadlineMs: 200 }), { started: true });
await refuses("MEMORY_LIMIT", invoke(++id, act("hoard")), { started: true });
const denied = await refuses("PERMISSION_DENIED", invoke(++id, { ...act("query"), plugin: "echo-b" }), { started: true });
assert.equal(denied["details"]?.method, "query");

// Pending requests: the same id twice, a cancel, a deadline that passes in the queue.
await bare.send(invoke("twice", { ...act("hang"), deadlineMs: 3000 }));
await refuses("DUPLICATE_ID", invoke("twice"), { id: null, details: { id: "twice" } });
await refuses("DEADLINE_EXCEEDED", invoke(++id, { deadlineMs: 100 }), { started: false, retryable: true });
await bare.send({ type: "cancel", id: "c", target: "twice" });
const replies = [await bare.receive(), await bare.receive()];
const byId = (wanted: string): Message => replies.find((reply) => reply["id"] === wanted)!;
assert.deepEqual(byId("c"), { type: "cancelled", id: "c", target: "twice", found: true });
assert.equal(byId("twice")["code"], "CANCELLED");
seen.add("CANCELLED");
assert.deepEqual(await bare.ask({ type: "cancel", id: "c2", target: "twice" }),
  { type: "cancelled", id: "c2", target: "twice", found: false });

// More than a plugin's queue takes, of 64: while nobody else calls, one user may have all of it.
for (let n = 0; n < 120; n++) await bare.send(invoke(`flood-${n}`, { ...act("hang"), plugin: "echo-d", deadlineMs: 1500 }));
const flood: Message[] = [];
for (let n = 0; n < 120; n++) flood.push(await bare.receive());
assert.equal(new Set(flood.map((reply) => reply["id"])).size, 120);
const overloaded = flood.filter((reply) => reply["code"] === "OVERLOADED");
assert(overloaded.length > 0 && overloaded.every((reply) => reply["retryable"] && !reply["started"]));
seen.add("OVERLOADED");

// A routing id of one's own, and REQ's delimiter.
const named = new Dealer({ routingId: "mine", linger: 0 });
named.connect(ENDPOINT);
await named.send(encode({ type: "ping", id: 1 }));
assert(Buffer.from((await named.receive())[0]!).includes("PROTOCOL_ERROR"));
const req = new Request({ linger: 0 });
req.connect(ENDPOINT);
await req.send(encode({ type: "ping", id: 1 }));
assert(Buffer.from((await req.receive())[0]!).includes("pong"));

assert.deepEqual(await bare.ask({ type: "ping", id: 0 }), { type: "pong", id: 0 });
done({ codes: [...seen].sort() });
