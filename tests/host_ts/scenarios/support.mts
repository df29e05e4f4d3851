/** What the scenarios share: a bare DEALER that counts every reply, so that nothing is hidden by a client. */

import { decode, encode } from "@msgpack/msgpack";
import { Dealer } from "zeromq";

export const USER = "11111111-2222-4333-8444-555555555555";
export const ENDPOINT = process.argv[2]!;

export type Message = Record<string, any>;

export class Bare {
  readonly socket = new Dealer({ immediate: true, linger: 0, sendHighWaterMark: 0, receiveHighWaterMark: 0 });

  constructor(endpoint: string) {
    this.socket.connect(endpoint);
  }

  async send(body: Uint8Array | Message): Promise<void> {
    await this.socket.send(body instanceof Uint8Array ? body : encode(body));
  }

  async receive(timeoutMs = 10_000): Promise<Message> {
    this.socket.receiveTimeout = timeoutMs;
    const frames = await this.socket.receive();
    return decode(frames[frames.length - 1]!) as Message;
  }

  async ask(body: Uint8Array | Message): Promise<Message> {
    await this.send(body);
    return this.receive();
  }
}

export function invoke(id: number | string, more: Message = {}): Message {
  return {
    type: "invoke", id, plugin: "echo-a", action: "onActionExecute", userId: USER,
    payload: { action: "echo", context: {} }, ...more,
  };
}

export function act(action: string, context: Message = {}): Message {
  return { payload: { action, context } };
}

/** The last line that pytest reads. */
export function done(summary: Message): never {
  process.stdout.write(`${JSON.stringify(summary)}\n`, () => process.exit(0));
  return undefined as never;
}
