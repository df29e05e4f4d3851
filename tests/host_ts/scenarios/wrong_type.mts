/** A peer answers a call with something else than a result: that is no success. */

import { ApexClient, CallError } from "../../../apex_exec/examples/host-ts/client.js";
import { done, ENDPOINT, USER } from "./support.mjs";

const client = new ApexClient(ENDPOINT);
const outcome = await client.invoke("p", "onActionExecute", USER, { action: "n", context: {} }).then(
  (reply) => ({ success: reply }),
  (error) => (error instanceof CallError ? { code: error.code, started: error.started, retryable: error.retryable } : String(error)));
done({ outcome });
