/** Serves one host method, on tcp with the keys that are named, until its stdin says that it is over. */

import { createInterface } from "node:readline";

import { ApexClient, type HostCall } from "../../../apex_exec/examples/host-ts/client.js";
import { done, ENDPOINT } from "./support.mjs";

const [serverPublicKey, publicKey, secretKey] = process.argv.slice(3);
const client = new ApexClient(ENDPOINT, secretKey === undefined
  ? {} : { curve: { serverPublicKey: serverPublicKey!, publicKey: publicKey!, secretKey } });
const seen: unknown[] = [];
await client.provide({
  "admin.users.list": async (call: HostCall) => ({ users: seen.push(call.params) }),
});
process.stdout.write("ready\n");
await createInterface({ input: process.stdin })[Symbol.asyncIterator]().next();
client.close();
done({ seen });
