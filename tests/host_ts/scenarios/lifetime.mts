/** Events of the connection, `await using`, `unref`, and an abort while the hook runs. */

import { ApexClient, Cancelled } from "../../../apex_exec/examples/host-ts/client.js";
import { done, ENDPOINT, USER } from "./support.mjs";

const events: string[] = [];
{
  await using client = new ApexClient(ENDPOINT);
  client.on("connect", () => events.push("connect")).on("disconnect", () => events.push("disconnect"));
  await client.ping();
  const begun = performance.now();
  const error = await client.invoke("echo-a", "onActionExecute", USER, { action: "hang", context: {} },
    { signal: AbortSignal.timeout(200) }).then(() => undefined, (reason: unknown) => reason);
  events.push(error instanceof Cancelled ? "cancelled" : String(error));
  events.push(performance.now() - begun < 1500 ? "soon" : "late");
}
const open = new ApexClient(ENDPOINT);
await open.ping();
open.unref();
process.on("exit", () => process.stdout.write(`${JSON.stringify({ events, exits: true })}\n`));
void done;  // the process ends by itself although a client is open
