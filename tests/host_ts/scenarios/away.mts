/**
 * A host whose daemon is away: what never left says so, an abort rejects at once, and what waits goes as soon as one comes.
 *
 *   node away.mjs HOST      (no daemon yet; one is started when "away" was printed)
 */

import { ApexClient, CallError, ConnectionLost } from "../../../apex_exec/examples/host-ts/client.js";
import { done, ENDPOINT, USER } from "./support.mjs";

const client = new ApexClient(ENDPOINT);
const call = (options: { deadlineMs: number; signal?: AbortSignal }) =>
  client.invoke("echo-a", "onActionExecute", USER, { action: "echo", context: { n: 1 } }, options);
const failed = (promise: Promise<unknown>) => promise.then(() => "no error", (reason: unknown) => reason);

const lost = await Promise.all(Array.from({ length: 50 }, () => failed(call({ deadlineMs: 200 }))));
const executed = lost.map((error) => (error instanceof ConnectionLost ? String(error.executed) : String(error)));

const begun = performance.now();
const aborted = await Promise.all([1, 2].map(() => failed(call({ deadlineMs: 5000, signal: AbortSignal.timeout(50) }))));
const abortedMs = performance.now() - begun;
const codes = aborted.map((error) => (error instanceof CallError ? `${error.code} ${error.started}` : String(error)));

const waiting = call({ deadlineMs: 30_000 });
process.stdout.write("away\n");
const reply = await waiting;
const seen = reply.result;
client.close();
done({ executed: [...new Set(executed)], codes, abortedMs, seen });
