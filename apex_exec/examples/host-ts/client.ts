/**
 * A typed client of apex-exec: any number of calls in flight on one DEALER.
 *
 * What PROTOCOL 1.3 asks of a client is done here: nothing is queued for a daemon that is not there, every request
 * has a timeout of its own (deadline + 500 ms), what was pending on a connection that ended rejects with
 * ConnectionLost at once, and the client reconnects.
 */

import { accessSync, constants } from "node:fs";

import { decode, encode } from "@msgpack/msgpack";
import { Dealer } from "zeromq";

import { ConnectionLost, errorOf, localError } from "./errors.js";
import type {
  Dispatched, ErrorBody, Hook, HookPayloads, HostCall, HostMethod, Id, PluginInfo, Result, Welcome,
} from "./protocol.js";

export * from "./errors.js";
export * from "./protocol.js";

const GRACE_MS = 500;
const DEADLINE_MS = 5000;
const REQUEST_TIMEOUT_MS = 5000;
const MAX_MESSAGE_BYTES = 1_048_576;
const ADMIN_MESSAGE_BYTES_MAX = 64 * 1_048_576;  // bundles are among these; the daemon's own limit answers first
/** A send gives up this much before its request does, so that an unsent request is known to be unsent. */
const SEND_MARGIN_MS = 10;

export interface ClientOptions {
  /** The daemon's `host.max_message_bytes`; `hello()` takes over the one in force. */
  maxMessageBytes?: number;
  /** For tcp: Z85 keys, as `apex-exec keys curve` writes them. */
  curve?: { serverPublicKey: string; publicKey: string; secretKey: string };
}

export interface CallOptions {
  /** For queue, cold start and run together; default and maximum is the plugin's timeout. */
  deadlineMs?: number;
  /** Aborting cancels the call in the daemon; the promise then rejects with Cancelled, or resolves if it was done. */
  signal?: AbortSignal;
  traceparent?: string;
}

/** Thrown by a host method: the plugin sees `code` and the message. */
export class HostMethodError extends Error {
  constructor(readonly code: string, message: string) {
    super(message);
  }
}

interface Reply {
  type: string;
  id?: Id | null;
  [field: string]: unknown;
}

/**
 * The states of a request are those of the Python clients (`apex_exec/client/base.py`): `queued` until a connection takes
 * it, then `sent`; `sending` lies between, since zeromq.js sends asynchronously. One that is answered, lost or abandoned
 * has settled its promise and is forgotten.
 */
type State = "queued" | "sending" | "sent";

interface Pending {
  resolve: (reply: Reply) => void;
  reject: (error: Error) => void;
  timer: NodeJS.Timeout;
  state: State;
  aborted: boolean;
}

interface Outgoing {
  id: Id | undefined;
  body: Uint8Array;
  dueMs: number;
}

/** Why this user cannot connect to `endpoint`, on one line; "" where nothing forbids it. Does not connect. */
export function closedTo(endpoint: string): string {
  if (!endpoint.startsWith("ipc://")) return "";
  const path = endpoint.slice("ipc://".length);
  try {
    accessSync(path, constants.W_OK);
    return "";
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EACCES") return "";  // it may come yet
  }
  const remedy = path.endsWith("/admin.sock")
    ? "have admin.socket_group name a group of this user's and admin.roles give it a role"
    : "have host.socket_group name a group of this user's";
  return `uid ${process.geteuid?.() ?? "?"} may not connect to ${path}; run this as the daemon's user, or ${remedy}`;
}

/** One connection to a host or admin endpoint. `close` it, or Node will not exit. */
export class ApexClient {
  maxMessageBytes: number;
  private readonly socket: Dealer;
  private readonly pending = new Map<Id, Pending>();
  private readonly methods = new Map<string, HostMethod>();
  private readonly outbox: Outgoing[] = [];
  private sending = false;
  private connected = false;
  private closed = false;
  private nextId = 1;
  /** Messages that belonged to no pending request: replies that came too late, and what was no message at all. */
  unmatched = 0;

  constructor(readonly endpoint: string, options: ClientOptions = {}) {
    this.maxMessageBytes = options.maxMessageBytes ?? MAX_MESSAGE_BYTES;
    const { curve } = options;
    this.socket = new Dealer({
      immediate: true,
      linger: 0,
      reconnectInterval: 50,
      reconnectMaxInterval: 1000,
      // A machine or a network that has gone ends no connection; libzmq asks, and knows within a second.
      ...(endpoint.startsWith("tcp:") && { heartbeatInterval: 300, heartbeatTimeout: 900, connectTimeout: 2000 }),
      ...(curve && {
        curveServerKey: curve.serverPublicKey, curvePublicKey: curve.publicKey, curveSecretKey: curve.secretKey,
      }),
    });
    this.socket.events.on("disconnect", () => this.disconnected());
    this.socket.events.on("handshake", () => {
      this.connected = true;
      if (!this.sending) void this.drain();
      if (this.methods.size) this.post({ type: "provide", id: "provide", methods: [...this.methods.keys()] });
    });
    this.socket.connect(endpoint);
    void this.receive();
  }

  /** Drops the connection: what is pending rejects with ConnectionLost, and the daemon cancels it. */
  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.socket.close();
    this.outbox.length = 0;
    for (const id of [...this.pending.keys()]) this.lose(id, "the client was closed");
  }

  /** The daemon's version, isolation level and limits; takes over its message limit. */
  async hello(): Promise<Welcome> {
    const message = { type: "hello", protocol: [1], client: "apex-exec-typescript" };
    const welcome = (await this.request(message)) as unknown as Welcome;
    this.maxMessageBytes = welcome.limits.maxMessageBytes;
    return welcome;
  }

  async ping(): Promise<void> {
    await this.request({ type: "ping" });
  }

  /** The enabled plugins, for one user where named. */
  async plugins(userId?: string): Promise<PluginInfo[]> {
    const reply = await this.request(userId === undefined ? { type: "plugins" } : { type: "plugins", userId });
    return reply["plugins"] as PluginInfo[];
  }

  /** Runs one hook of one plugin. Rejects with a CallError, or ConnectionLost. */
  async invoke<H extends Hook>(
    plugin: string, action: H, userId: string, payload: HookPayloads[H], options: CallOptions = {},
  ): Promise<Result<H>> {
    const reply = await this.call({ type: "invoke", plugin, action, userId, payload }, options);
    return reply as unknown as Result<H>;
  }

  /** One event to every enabled plugin that declares the hook. A failing plugin is an outcome, no rejection. */
  async dispatch<H extends Hook>(
    action: H, userId: string, payload: HookPayloads[H], options: CallOptions = {},
  ): Promise<Dispatched<H>> {
    return (await this.call({ type: "dispatch", action, userId, payload }, options)) as unknown as Dispatched<H>;
  }

  /** This connection serves `methods` from now on, after a reconnect too. */
  async provide(methods: Record<string, HostMethod>): Promise<string[]> {
    for (const [name, method] of Object.entries(methods)) this.methods.set(name, method);
    return (await this.request({ type: "provide", methods: [...this.methods.keys()] }))["methods"] as string[];
  }

  /**
   * One operation of the administration table; only on the admin endpoint. A peer with the role `delegate` names the
   * person for whom it asks as `actor`, and that person's roles decide.
   */
  async admin<T = unknown>(
    op: string, args: Record<string, unknown> = {}, timeoutMs = 10_000, actor?: { name: string; roles: string[] },
  ): Promise<T> {
    return (await this.request({ type: "admin", op, args, actor }, timeoutMs))["result"] as T;
  }

  /** One request and its reply, as they are on the wire. */
  request(message: Record<string, unknown>, timeoutMs = REQUEST_TIMEOUT_MS, signal?: AbortSignal): Promise<Reply> {
    if (this.closed) return Promise.reject(new ConnectionLost("the client was closed", false));
    const id = this.nextId++;
    let body: Uint8Array;
    try {
      const bytesMax = message["type"] === "admin" ? ADMIN_MESSAGE_BYTES_MAX : this.maxMessageBytes;
      body = this.encoded({ id, ...message }, bytesMax);
    } catch (error) {
      return Promise.reject(error);
    }
    if (signal?.aborted) return Promise.reject(localError("CANCELLED", "aborted before it was sent"));
    const why = this.connected ? "" : closedTo(this.endpoint);
    if (why !== "") return Promise.reject(new ConnectionLost(`${why}; it was not sent`, false));
    const abort = (): void => this.abort(id);
    const reply = new Promise<Reply>((resolve, reject) => {
      const timer = setTimeout(() => this.expire(id, timeoutMs), timeoutMs);
      this.pending.set(id, { resolve, reject, timer, state: "queued", aborted: false });
      this.enqueue({ id, body, dueMs: performance.now() + timeoutMs });
    });
    if (signal === undefined) return reply;
    signal.addEventListener("abort", abort, { once: true });
    return reply.finally(() => signal.removeEventListener("abort", abort));
  }

  private call(message: Record<string, unknown>, options: CallOptions): Promise<Reply> {
    const deadlineMs = options.deadlineMs ?? DEADLINE_MS;
    const whole: Record<string, unknown> = { ...message, deadlineMs };
    if (options.traceparent !== undefined) whole["traceparent"] = options.traceparent;
    return this.request(whole, deadlineMs + GRACE_MS, options.signal);
  }

  /** The body; `undefined` is left out, as in JSON. Throws where it is no MessagePack value, or too large. */
  private encoded(message: Record<string, unknown>, bytesMax = this.maxMessageBytes): Uint8Array {
    let body: Uint8Array;
    try {
      body = encode(message, { ignoreUndefined: true });
    } catch (error) {
      throw localError("INVALID_INPUT", `the request cannot be written as MessagePack: ${(error as Error).message}`);
    }
    if (body.length > bytesMax) {
      throw localError("PAYLOAD_TOO_LARGE",
        `the message has ${body.length} bytes, the limit is ${bytesMax}`);
    }
    return body;
  }

  // ------------------------------------------------------------------ sending
  /** What needs no reply. While nobody is connected it means nothing: the daemon that it was for has forgotten it all. */
  private post(message: Record<string, unknown>): void {
    if (!this.connected) return;
    this.enqueue({ id: undefined, body: this.encoded(message), dueMs: performance.now() + REQUEST_TIMEOUT_MS });
  }

  private enqueue(outgoing: Outgoing): void {
    this.outbox.push(outgoing);
    if (!this.sending) void this.drain();
  }

  /**
   * Sends what is queued, one at a time as `zeromq` requires; a request that has expired meanwhile is not sent. Without
   * a connection all stays queued: what was handed to the socket could be neither taken back nor said not to have left.
   */
  private async drain(): Promise<void> {
    this.sending = true;
    while (this.connected && !this.closed) {
      const next = this.outbox.shift();
      if (next === undefined) break;
      const pending = next.id === undefined ? undefined : this.pending.get(next.id);
      if (next.id !== undefined && pending === undefined) continue;
      this.socket.sendTimeout = Math.max(1, next.dueMs - performance.now() - SEND_MARGIN_MS);
      if (pending !== undefined) pending.state = "sending";
      let taken = true;
      try {
        await this.socket.send(next.body);
      } catch {  // nobody took it in time: its timer rejects it
        taken = false;
      }
      if (pending !== undefined) pending.state = taken ? "sent" : "queued";
      if (pending?.aborted) this.abort(next.id!);
    }
    this.sending = false;
  }

  // ------------------------------------------------------------------ receiving
  private async receive(): Promise<void> {
    while (!this.closed && !this.socket.closed) {
      try {
        for await (const frames of this.socket) this.take(frames[frames.length - 1]!);
      } catch {  // the socket was closed, or a message could not be taken: neither may cost other calls their replies
        if (!this.closed) this.unmatched += 1;
      }
    }
  }

  /** One message. One that is none fails the call whose id can be read from it, and no other. */
  private take(body: Uint8Array): void {
    let reply: Reply;
    try {
      reply = decode(body) as Reply;
      if (typeof reply !== "object" || reply === null) throw new TypeError("not a map");
    } catch (error) {
      const undecodable = idOf(body);
      const waiting = undecodable === undefined ? undefined : this.settle(undecodable);
      if (waiting === undefined) this.unmatched += 1;
      else {
        waiting.reject(errorOf({
          code: "PROTOCOL_ERROR", message: `the reply cannot be read: ${String(error)}`, started: true, retryable: false,
        }));
      }
      return;
    }
    if (reply.type === "hostCall") {
      void this.answer(reply as unknown as HostCall);
      return;
    }
    const pending = reply.id == null ? undefined : this.settle(reply.id);
    if (pending === undefined) {  // late, of a request that was given up
      this.unmatched += 1;
      return;
    }
    if (reply.type === "error") pending.reject(errorOf(reply as unknown as ErrorBody));
    else pending.resolve(reply);
  }

  private settle(id: Id): Pending | undefined {
    const pending = this.pending.get(id);
    if (pending !== undefined) {
      this.pending.delete(id);
      clearTimeout(pending.timer);
    }
    return pending;
  }

  /** Forgets a request that has not left; nothing of it is kept until there is a connection. */
  private unqueue(id: Id): void {
    const at = this.outbox.findIndex((outgoing) => outgoing.id === id);
    if (at >= 0) this.outbox.splice(at, 1);
  }

  private lose(id: Id, why: string): void {
    const pending = this.settle(id);
    if (pending === undefined) return;
    pending.reject(pending.state !== "queued"
      ? new ConnectionLost(`${why}; whether it was executed is unknown`)
      : new ConnectionLost(`${why}; it was not sent`, false));
  }

  private expire(id: Id, timeoutMs: number): void {
    const state = this.pending.get(id)?.state;
    if (state === "queued") this.unqueue(id);
    const sent = state === "sent";
    if (sent) this.post({ type: "cancel", id: `cancel-${id}`, target: id });
    this.lose(id, sent ? `no reply within ${timeoutMs} ms` : `nothing answers on ${this.endpoint}`);
  }

  private abort(id: Id): void {
    const pending = this.pending.get(id);
    if (pending === undefined) return;
    pending.aborted = true;  // one that is being sent is cancelled as soon as it is out
    if (pending.state === "sent") this.post({ type: "cancel", id: `cancel-${id}`, target: id });
    else if (pending.state === "queued") {
      this.unqueue(id);
      this.settle(id)?.reject(localError("CANCELLED", "aborted before it was sent"));
    }
  }

  /** What was sent on the connection that ended is lost; replies that had arrived were taken before this turn. */
  private disconnected(): void {
    this.connected = false;
    setImmediate(() => {
      for (const [id, pending] of [...this.pending]) {
        if (pending.state === "sent") this.lose(id, "the daemon closed the connection");
      }
    });
  }

  private async answer(call: HostCall): Promise<void> {
    const head = { type: "hostReply", callId: call.callId };
    try {
      const method = this.methods.get(call.method);
      if (method === undefined) throw new HostMethodError("not_provided", `${call.method} is not provided`);
      this.post({ ...head, ok: true, result: (await method(call)) ?? null });
    } catch (error) {  // the plugin must get an answer whatever the method does; only a HostMethodError is told
      const told = error instanceof HostMethodError ? error : new HostMethodError("host_error", "the host method failed");
      this.post({ ...head, ok: false, error: { code: told.code, message: told.message } });
    }
  }
}

/** The `id` of a message that cannot be decoded as a whole. The daemon writes `type` and `id` first. */
function idOf(body: Uint8Array): Id | undefined {
  let at = 0;
  const scalar = (): Id | null => {  // throws at what is neither integer, text nor nil, and at the body's end
    const head = body[at++]!;
    if (head === 0xc0) return null;
    if (head < 0x80) return head;
    const width = ({ 0xcc: 1, 0xcd: 2, 0xce: 4, 0xcf: 8, 0xd9: 1, 0xda: 2, 0xdb: 4 } as Record<number, number>)[head] ?? 0;
    const isText = head >= 0xd9 || (head >= 0xa0 && head < 0xc0);
    if ((!width && !isText) || at + width > body.length) throw new RangeError("no scalar");
    let number = width ? 0 : head & 0x1f;
    for (let end = at + width; at < end; at++) number = number * 256 + body[at]!;
    if (!isText) return number;
    if (at + number > body.length) throw new RangeError("the body ends before its value");
    at += number;
    return new TextDecoder("utf-8", { fatal: true }).decode(body.subarray(at - number, at));
  };
  try {
    const head = body[at++]!;
    const fields = head >> 4 === 8 ? head & 0x0f : 4;
    if (head >> 4 !== 8) at += 2;
    for (let field = 0; field < Math.min(fields, 4); field++) {
      const key = scalar();
      const value = scalar();
      if (key === "id") return value ?? undefined;
    }
  } catch {
    return undefined;
  }
  return undefined;
}
