/**
 * A host of a user who may not connect: it is told so at once, with its uid, the socket and what would let it in.
 *
 *   node closed.mjs HOST ADMIN
 */

import { ApexClient, ConnectionLost } from "../../../apex_exec/examples/host-ts/client.js";

const told: Record<string, unknown>[] = [];
for (const endpoint of process.argv.slice(2)) {
  const client = new ApexClient(endpoint);
  const begun = Date.now();
  const error = await client.admin("ops").then(() => undefined, (reason: unknown) => reason);
  const lost = error instanceof ConnectionLost ? error : undefined;
  told.push({ message: lost?.message, executed: lost?.executed, seconds: (Date.now() - begun) / 1000 });
  client.close();
}
console.log(JSON.stringify({ told }));
