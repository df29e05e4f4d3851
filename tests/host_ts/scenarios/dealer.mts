/**
 * One DEALER after another, each for one connection: prints what each was given, in hexadecimal, a line for each.
 *
 *   node dealer.mjs PATH COUNT
 */

import { ZmtpDealer } from "../../../apex_exec/examples/host-ts/zmtp.js";

const [path, count] = [process.argv[2]!, Number(process.argv[3])];
for (let n = 0; n < count; n++) {
  const bodies: string[] = [];
  const dealer: ZmtpDealer = new ZmtpDealer(path, {
    connected: () => undefined,
    disconnected: () => undefined,
    message: (body) => bodies.push(Buffer.from(body).toString("hex")),
  });
  await dealer.ended();
  dealer.close();
  process.stdout.write(`${JSON.stringify(bodies)}\n`);
}
