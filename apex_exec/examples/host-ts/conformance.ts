/**
 * Drives this client for `apex-exec conformance host`: reads a line of JSON with operations, begins all of them together,
 * and prints a line of JSON with what came of each.
 *
 *   npm run build && apex-exec conformance host -- node dist/conformance.js
 */

import { createInterface } from "node:readline";

import { ApexClient, CallError, ConnectionLost, HostMethodError, type HostMethod } from "./client.js";

type Json = any;
interface Operation {
  op: string;
  abortAfterMs?: number;
  [field: string]: Json;
}

const GRACE_MS = 500;
const REQUEST_MS = 5000;
const client = new ApexClient(process.argv.at(-1)!);

function toJson(value: Json): Json {
  if (value instanceof Uint8Array) return { $bin: Buffer.from(value).toString("base64") };
  if (value instanceof Date) return { $time: value.toISOString() };
  if (Array.isArray(value)) return value.map(toJson);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, toJson(inner)]));
}

function fromJson(value: Json): Json {
  if (Array.isArray(value)) return value.map(fromJson);
  if (typeof value !== "object" || value === null) return value;
  if (typeof value.$bin === "string") return new Uint8Array(Buffer.from(value.$bin, "base64"));
  if (typeof value.$time === "string") return new Date(value.$time);
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, fromJson(inner)]));
}

/** What every provided method does: returns its parameters, or fails as they say. */
const method: HostMethod = (call) => {
  const params = call.params as Json;
  if (params.fail !== undefined) throw new HostMethodError(params.fail, "as it was asked to");
  if (params.bug !== undefined) throw new Error(params.bug);
  return params;
};

async function run({ op, abortAfterMs, ...fields }: Operation): Promise<Json> {
  if (op === "hello") return client.hello();
  if (op === "provide") {
    return { methods: await client.provide(Object.fromEntries(fields["methods"].map((name: string) => [name, method]))) };
  }
  if (op === "wait") return new Promise((resolve) => setTimeout(() => resolve(null), fields["ms"]));
  const timeoutMs = fields["deadlineMs"] === undefined ? REQUEST_MS : fields["deadlineMs"] + GRACE_MS;
  const signal = abortAfterMs === undefined ? undefined : AbortSignal.timeout(abortAfterMs);
  return client.request({ type: op, ...fields }, timeoutMs, signal);
}

async function outcome(operation: Operation): Promise<Json> {
  try {
    return { reply: await run(operation) };
  } catch (error) {
    if (error instanceof CallError) {
      return { error: { code: error.code, started: error.started, retryable: error.retryable, executed: null } };
    }
    if (error instanceof ConnectionLost) {
      return { error: { code: error.code, started: null, retryable: error.retryable, executed: error.executed ?? null } };
    }
    return { error: { code: String(error) } };
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const done = await Promise.all(fromJson(JSON.parse(line)).ops.map(outcome));
  process.stdout.write(`${JSON.stringify({ done: toJson(done) })}\n`);
}
client.close();
