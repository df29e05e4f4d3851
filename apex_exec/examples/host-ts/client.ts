/**
 * A typed client of apex-exec: any number of calls in flight on one connection.
 *
 * What PROTOCOL 1.3 asks of a client is done here: nothing is queued for a daemon that is not there, every request
 * has a timeout of its own (deadline + 500 ms), what was pending on a connection that ended rejects with
 * ConnectionLost at once, and the client reconnects.
 */

import { EventEmitter } from "node:events";
import { accessSync, constants } from "node:fs";

import { Decoder, Encoder } from "@msgpack/msgpack";

import { ConnectionLost, errorOf, localError } from "./errors.js";
import type {
  AuditEvent, AuditFilter, Dispatched, ErrorBody, Hook, HookPayloads, HostCall, HostMethod, Id, PluginInfo, Result, Welcome,
} from "./protocol.js";
import { type Curve, open, type Transport } from "./transport.js";

export * from "./errors.js";
export * from "./protocol.js";

const GRACE_MS = 500;
const DEADLINE_MS = 5000;
const REQUEST_TIMEOUT_MS = 5000;
const MAX_MESSAGE_BYTES = 1_048_576;
const ADMIN_MESSAGE_BYTES_MAX = 64 * 1_048_576;  // bundles are among these; the daemon's own limit answers first
/** How long the daemon may take to say what became of an aborted call, before the abort rejects without its word. */
const ABORT_MS = 100;
/** Request → the type of its answer, and a field without which it is none. */
const ANSWERS: Record<string, [string, string]> = {
  hello: ["welcome", "limits"], ping: ["pong", "id"], plugins: ["plugins", "plugins"], invoke: ["result", "result"],
  dispatch: ["dispatched", "outcomes"], provide: ["provided", "methods"], admin: ["adminResult", "result"],
};
const encoder = new Encoder({ ignoreUndefined: true });
const decoder = new Decoder();

export interface ClientOptions {
  /** The daemon's `host.max_message_bytes`; `hello()` takes over the one in force. */
  maxMessageBytes?: number;
  /** For tcp, which needs the npm package `zeromq`: Z85 keys, as `apex-exec keys curve` writes them. */
  curve?: Curve;
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
 * it, then `sent`. One that is answered, lost or abandoned has settled its promise and is forgotten.
 */
interface Pending {
  readonly kind: string;
  readonly resolve: (reply: Reply) => void;
  readonly reject: (error: Error) => void;
  readonly timeoutMs: number;
  readonly dueMs: number;
  /** The body while it is queued. */
  body: Uint8Array | undefined;
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

/** What a client emits: `connect` after each handshake, `disconnect` with the reason. */
interface ClientEvents {
  connect: [];
  disconnect: [why: string];
}

/** One connection to a host or admin endpoint. `close` or `unref` it, or the process will not exit. */
export class ApexClient extends EventEmitter<ClientEvents> {
  maxMessageBytes: number;
  private readonly transport: Transport;
  private readonly pending = new Map<Id, Pending>();
  private readonly methods = new Map<string, HostMethod>();
  /** Ids of requests without a connection to go out on, in order. */
  private readonly outbox = new Set<Id>();
  private closed = false;
  private referenced = true;
  private nextId = 1;
  private timer: NodeJS.Timeout | undefined;
  private timerDueMs = Infinity;
  /** Messages that belonged to no pending request: replies that came too late, and what was no message at all. */
  unmatched = 0;

  constructor(readonly endpoint: string, options: ClientOptions = {}) {
    super();
    this.maxMessageBytes = options.maxMessageBytes ?? MAX_MESSAGE_BYTES;
    this.transport = open(endpoint, options.curve, {
      connected: () => this.onConnected(),
      disconnected: (why) => this.onDisconnected(why),
      message: (body) => this.take(body),
    });
  }

  /** Whether the daemon is there. */
  get connected(): boolean {
    return this.transport.connected;
  }

  /** Drops the connection: what is pending rejects with ConnectionLost, and the daemon cancels it. */
  close(): void {
    if (this.closed) return;
    this.closed = true;
    this.transport.close();
    for (const id of [...this.pending.keys()]) this.lose(id, "the client was closed");
    clearTimeout(this.timer);
  }

  /** `await using client = new ApexClient(…)`: closes, and resolves once nothing of the connection is left. */
  async [Symbol.asyncDispose](): Promise<void> {
    const ended = this.transport.ended();
    this.close();
    await ended;
  }

  /** Lets the process exit although this client is open. */
  unref(): this {
    this.referenced = false;
    this.transport.unref();
    this.timer?.unref();
    return this;
  }

  /** Undoes `unref`. */
  ref(): this {
    this.referenced = true;
    this.transport.ref();
    this.timer?.ref();
    return this;
  }

  /** The daemon's version, isolation level and limits; takes over its message limit. */
  async hello(): Promise<Welcome> {
    const message = { type: "hello", protocol: [1], client: "apex-exec-typescript" };
    const welcome = (await this.request(message)) as unknown as Welcome;
    this.maxMessageBytes = welcome.limits.maxMessageBytes;
    return welcome;
  }

  async ping(timeoutMs = REQUEST_TIMEOUT_MS): Promise<void> {
    await this.request({ type: "ping" }, timeoutMs);
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

  /** The ledger's events after a sequence number, oldest first, and the number to go on from; on the admin endpoint. */
  async readAudit(afterSeq = 0, limit = 100, filter: AuditFilter = {}): Promise<{ events: AuditEvent[]; next: number }> {
    return await this.admin("audit.read", { afterSeq, limit, filter });
  }

  /** One request and its reply, as they are on the wire. */
  request(message: Record<string, unknown>, timeoutMs = REQUEST_TIMEOUT_MS, signal?: AbortSignal): Promise<Reply> {
    if (this.closed) return Promise.reject(new ConnectionLost("the client was closed", false));
    const id = this.nextId++;
    const kind = String(message["type"]);
    let body: Uint8Array;
    try {
      body = this.encoded({ id, ...message }, kind === "admin" ? ADMIN_MESSAGE_BYTES_MAX : this.maxMessageBytes);
    } catch (error) {
      return Promise.reject(error);
    }
    if (signal?.aborted) return Promise.reject(localError("CANCELLED", "aborted before it was sent"));
    const { transport } = this;
    if (!transport.connected) {
      const why = closedTo(this.endpoint);
      if (why !== "") return Promise.reject(new ConnectionLost(`${why}; it was not sent`, false));
      body = body.slice();  // the encoder's own buffer is for the next message
    }
    const reply = new Promise<Reply>((resolve, reject) => {
      const dueMs = performance.now() + timeoutMs;
      const asked: Pending = { kind, resolve, reject, timeoutMs, dueMs, body: undefined };
      this.pending.set(id, asked);
      if (transport.connected) transport.send(body);
      else {
        asked.body = body;
        this.outbox.add(id);
      }
      if (dueMs < this.timerDueMs) this.wake(dueMs);
    });
    if (signal === undefined) return reply;
    const abort = (): void => this.abort(id);
    signal.addEventListener("abort", abort, { once: true });
    return reply.finally(() => signal.removeEventListener("abort", abort));
  }

  private call(message: Record<string, unknown>, options: CallOptions): Promise<Reply> {
    const deadlineMs = options.deadlineMs ?? DEADLINE_MS;
    const whole: Record<string, unknown> = { ...message, deadlineMs };
    if (options.traceparent !== undefined) whole["traceparent"] = options.traceparent;
    return this.request(whole, deadlineMs + GRACE_MS, options.signal);
  }

  /** The body, until the next is encoded; `undefined` is left out, as in JSON. Throws where it is no MessagePack value, or too large. */
  private encoded(message: Record<string, unknown>, bytesMax = this.maxMessageBytes): Uint8Array {
    let body: Uint8Array;
    try {
      body = encoder.encodeSharedRef(message);
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
    if (this.transport.connected) this.transport.send(this.encoded(message));
  }

  private onConnected(): void {
    for (const id of this.outbox) {
      const asked = this.pending.get(id);
      if (asked?.body === undefined) continue;
      this.transport.send(asked.body);
      asked.body = undefined;
    }
    this.outbox.clear();
    if (this.methods.size) this.post({ type: "provide", id: "provide", methods: [...this.methods.keys()] });
    this.emit("connect");
  }

  /** What was sent on the connection that ended is lost; replies that had arrived were taken before. */
  private onDisconnected(why: string): void {
    for (const [id, asked] of [...this.pending]) {
      if (asked.body === undefined) this.lose(id, why);
    }
    if (!this.closed) this.emit("disconnect", why);
  }

  // ------------------------------------------------------------------ receiving
  /** One message. One that is none fails the call whose id can be read from it, and no other. */
  private take(body: Uint8Array): void {
    let reply: Reply;
    try {
      reply = decoder.decode(body) as Reply;
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
    else if (isAnswer(pending.kind, reply)) pending.resolve(reply);
    else {
      pending.reject(errorOf({
        code: "PROTOCOL_ERROR", started: true, retryable: false,
        message: `the reply is no answer to ${pending.kind}; whether it was executed is unknown`,
      }));
    }
  }

  private settle(id: Id): Pending | undefined {
    const asked = this.pending.get(id);
    if (asked !== undefined) {
      this.pending.delete(id);
      if (asked.body !== undefined) this.outbox.delete(id);
    }
    return asked;
  }

  private lose(id: Id, why: string): void {
    const asked = this.settle(id);
    if (asked === undefined) return;
    asked.reject(asked.body === undefined
      ? new ConnectionLost(`${why}; whether it was executed is unknown`)
      : new ConnectionLost(`${why}; it was not sent`, false));
  }

  /** One timer for all requests: for the one that is due first when it is set. */
  private wake(dueMs: number): void {
    clearTimeout(this.timer);
    this.timerDueMs = dueMs;
    this.timer = setTimeout(() => this.expire(), Math.max(1, Math.ceil(dueMs - performance.now())));
    if (!this.referenced) this.timer.unref();
  }

  private expire(): void {
    const now = performance.now();
    let next = Infinity;
    this.timer = undefined;
    this.timerDueMs = Infinity;
    for (const [id, asked] of [...this.pending]) {
      if (asked.dueMs > now) {
        next = Math.min(next, asked.dueMs);
        continue;
      }
      const sent = asked.body === undefined;
      if (sent) this.post({ type: "cancel", id: `cancel-${id}`, target: id });
      this.lose(id, sent ? `no reply within ${asked.timeoutMs} ms` : `nothing answers on ${this.endpoint}`);
    }
    if (next !== Infinity) this.wake(next);
  }

  private abort(id: Id): void {
    const asked = this.pending.get(id);
    if (asked === undefined) return;
    if (asked.body !== undefined) {
      this.settle(id)?.reject(localError("CANCELLED", "aborted before it was sent"));
      return;
    }
    this.post({ type: "cancel", id: `cancel-${id}`, target: id });
    const patience = setTimeout(() => {
      this.settle(id)?.reject(errorOf({
        code: "CANCELLED", message: "aborted; whether it was executed is unknown", started: true, retryable: false,
      }));
    }, ABORT_MS);
    patience.unref();
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

function isAnswer(kind: string, reply: Reply): boolean {
  const wanted = ANSWERS[kind];
  return wanted === undefined || (reply.type === wanted[0] && wanted[1] in reply);
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
