/**
 * Values that both npm MessagePack libraries make of JavaScript's own types, and what a plugin then sees.
 * Prints {library: {value: what came of it}} where it is a Python type's name, an error code, or "throws".
 */

import { Encoder, decode as decodeA } from "@msgpack/msgpack";
import { Packr, Unpackr } from "msgpackr";

import { act, Bare, done, ENDPOINT, invoke, type Message } from "./support.mjs";

const values: Record<string, unknown> = {
  undefined: undefined, date: new Date(1_700_000_000_123), bigint: 12n, hugeBigint: 2n ** 62n, tooBig: 2n ** 70n,
  set: new Set([1, 2]), map: new Map([["a", 1]]), bytes: new Uint8Array([1, 2, 3]), integralFloat: 5.0, float: 1.5,
  nan: NaN, emoji: "é😀", nested: { list: [1, [2, [3]]], nothing: null },
};
const packr = new Packr({ useRecords: false });
const libraries: Record<string, { encode: (m: Message) => Uint8Array; decode: (b: Uint8Array) => Message }> = {
  "@msgpack/msgpack": { encode: (m) => new Encoder({ useBigInt64: true }).encode(m), decode: (b) => decodeA(b) as Message },
  msgpackr: { encode: (m) => packr.pack(m), decode: (b) => new Unpackr({ useRecords: false }).unpack(b) as Message },
};
const bare = new Bare(ENDPOINT);
const summary: Message = {};
let id = 0;
for (const [library, { encode, decode }] of Object.entries(libraries)) {
  const seen: Message = (summary[library] = {});
  const exchange = async (message: Message): Promise<Message> => {
    await bare.send(encode(message));
    const frames = await bare.socket.receive();
    return decode(frames[frames.length - 1]!);
  };
  for (const [name, value] of Object.entries(values)) {
    let reply: Message;
    try {
      reply = await exchange(invoke(++id, act("types", { value })));
    } catch {
      seen[name] = "throws";
      continue;
    }
    seen[name] = reply["type"] === "result" ? reply["result"].result.value : reply["code"];
    if (reply["id"] !== id && reply["id"] !== null) throw new Error(`reply to another request: ${reply["id"]}`);
    if (reply["type"] !== "result") continue;
    const back = await exchange(invoke(++id, act("echo", { value })));
    seen[`${name} back`] = back["type"] === "result" ? shown(back["result"].result.value) : back["code"];
  }
  // The envelope as such hosts write it: undefined in optional fields, integral floats, an upper-case user.
  const loose = await exchange({
    ...invoke(++id), deadlineMs: 2000.0, traceparent: undefined, userId: "AAAAAAAA-2222-4333-8444-555555555555",
  });
  seen["envelope"] = loose["type"] === "result" ? loose["result"].metadata.user : loose;
}
done(summary);

function shown(value: unknown): string {
  if (value instanceof Date) return `Date ${value.getTime()}`;
  if (value instanceof Uint8Array) return `bytes ${[...value]}`;
  if (typeof value === "bigint") return `bigint ${value}`;
  return JSON.stringify(value) ?? "undefined";
}
