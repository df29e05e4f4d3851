/** A hundred calls are pending when the daemon is killed: each settles; a new daemon is reached without a new client. */

import { createInterface } from "node:readline";

import { ApexClient, ConnectionLost } from "../../../apex_exec/examples/host-ts/client.js";
import { done, ENDPOINT, USER } from "./support.mjs";

const client = new ApexClient(ENDPOINT);
await client.hello();
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const calls = Array.from({ length: 100 }, (_, n) => client.invoke(
  `echo-${"abcd"[n % 4]}`, "onActionExecute", USER.replace(/^1{8}/, String(10_000_000 + n)),
  { action: "hang", context: {} }, { deadlineMs: 4000 }));
const settled = Promise.allSettled(calls);
await client.ping();  // behind the hundred: the daemon has them
process.stdout.write("pending\n");
await lines.next();  // the daemon is dead
const begun = Date.now();
const outcomes = await settled;
const lost = outcomes.filter((o) => o.status === "rejected" && o.reason instanceof ConnectionLost).length;
const tookMs = Date.now() - begun;
process.stdout.write("settled\n");
await lines.next();  // there is another
const again = await client.invoke("echo-a", "onActionExecute", USER, { action: "echo", context: { back: true } });
client.close();
done({ lost, total: outcomes.length, tookMs, again: again.result.result });
