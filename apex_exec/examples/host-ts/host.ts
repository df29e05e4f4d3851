/**
 * An example host: the ten steps of the hosts in other languages (`../hosts`), with a daemon that serves the example
 * plugins. It runs on Node, Bun and Deno.
 *
 *   npm run host -- ipc:///run/apex-exec/host.sock
 */

import { deepEqual } from "node:assert/strict";
import { argv } from "node:process";

import { ApexClient, Busy, CallError } from "./client.js";

const USER = "11111111-2222-4333-8444-555555555555";
const TRIES = 50;
const PAUSE_MS = 50;
const LARGE_CALLS = 8;
/** What a call has beside its data, and more. */
const AROUND_BYTES = 300;
const client = new ApexClient(argv[2] ?? "ipc:///run/apex-exec/host.sock");
const dashboard = { dashboardId: "main" };

/** Calls again what was refused and has certainly not run (OVERLOADED and its like). */
async function patiently<Answer>(call: () => Promise<Answer>): Promise<Answer> {
  for (let tries = 1;; tries++) {
    try {
      return await call();
    } catch (error) {
      if (!(error instanceof Busy) || tries === TRIES) throw error;
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    }
  }
}

/** The error that a call ends with. */
async function refused(call: () => Promise<unknown>): Promise<CallError> {
  const error = await patiently(call).then(() => undefined, (reason: unknown) => reason);
  if (error instanceof CallError) return error;
  throw error ?? new Error("it was answered");
}

const act = (plugin: string, action: string, context: Record<string, unknown>, signal?: AbortSignal) =>
  client.invoke(plugin, "onActionExecute", USER, { action, context }, signal ? { signal } : {});

async function steps(): Promise<void> {
  const welcome = await client.hello();
  console.log(`1 hello: protocol ${welcome.protocol}, bodies of up to ${client.maxMessageBytes} bytes`);

  const plugin = (await client.plugins(USER)).find(({ id }) => id === "hello-world");
  console.log(`2 plugins: ${plugin?.id} serves ${plugin?.hooks[0]}`);

  const loaded = await patiently(() => client.invoke("hello-world", "onDashboardLoad", USER, dashboard));
  console.log(`3 dashboard: ${loaded.result.customWidgets[0]?.component}`);

  const query = { query: "sales", filters: { year: 2026 } };
  const fetched = await patiently(() => client.invoke("custom-analytics", "onDataFetch", USER, query));
  const data = fetched.result.transformedData as { query: string; filters: string[] };
  console.log(`4 data: ${data.query} by ${data.filters[0]}`);

  const values = {
    text: "é😀", bytes: new Uint8Array([0x00, 0xff]), moment: new Date("2026-01-31T12:00:00.123Z"),
    largest: Number.MAX_SAFE_INTEGER, smallest: Number.MIN_SAFE_INTEGER, float: 1.5, nothing: null, yes: true,
    list: [1, {}],
  };
  deepEqual((await patiently(() => act("action-router", "echo", values))).result.result, values);
  console.log("5 action: every value came back as it left");

  await patiently(() => client.invoke("login-audit", "onAuthSuccess", USER, { sessionId: "s-1" }));
  console.log("6 login: done");

  const problems = [];
  for (const name of ["nobody", "liar"]) {
    const { code, started } = await refused(() => client.invoke(name, "onDashboardLoad", USER, dashboard));
    problems.push(`${code} ${started ? "after it began" : "unstarted"}`);
  }
  const large = await refused(() => act("action-router", "echo", { data: new Uint8Array(client.maxMessageBytes) }));
  const left = large.code === "PAYLOAD_TOO_LARGE" && !large.started ? "is not sent" : large.code;
  console.log(`7 errors: ${problems.join(", ")}, a body that is too large ${left}`);

  console.log(`8 cancel: ${(await refused(() => act("spinner", "spin", {}, AbortSignal.timeout(100)))).code}`);
  await manyLarge();

  const all = await patiently(() => client.dispatch("onDashboardLoad", USER, dashboard));
  const widget = all.result?.customWidgets.find(({ id }) => id === "hello-world/hello-widget");
  const failed = all.outcomes.find((outcome) => outcome.plugin === "liar")?.error;
  console.log(`10 dispatch: ${widget?.id}; liar failed with ${failed?.code}`);
}

/** Calls under way together, each nearly as large as the daemon allows; their answers wait for a slow reader. */
async function manyLarge(): Promise<void> {
  const size = client.maxMessageBytes - AROUND_BYTES;
  const datas = Array.from({ length: LARGE_CALLS }, (_, n) => new Uint8Array(size).fill(n));
  const calls = datas.map((data) => patiently(() => act("action-router", "echo", { data })));
  await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));  // they leave
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1000);  // nothing is read meanwhile
  (await Promise.all(calls)).forEach(({ result }, n) => deepEqual(result.result, { data: datas[n] }));
  console.log(`9 large: ${LARGE_CALLS} answers of a megabyte, each to its call`);
}

await steps().finally(() => client.close());
