/** A peer answers every second call with what is no message: that call fails, every other has its own answer. */

import { ApexClient, CallError } from "../../../apex_exec/examples/host-ts/client.js";
import { done, ENDPOINT, USER } from "./support.mjs";

const client = new ApexClient(ENDPOINT);
const calls = Array.from({ length: 60 }, (_, n) =>
  client.invoke("p", "onActionExecute", USER, { action: "n", context: { n: n + 1 } }).then(
    (reply) => (reply.result as any)?.context?.n ?? "read",
    (error) => (error instanceof CallError ? error.code : String(error))));
const outcomes = await Promise.all(calls);
done({ outcomes, unmatched: client.unmatched });
