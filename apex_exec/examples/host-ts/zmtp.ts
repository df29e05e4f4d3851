/**
 * A DEALER that speaks ZMTP 3.1 (NULL) itself over `node:net`: no native addon, so that it runs on Node, Bun and Deno and
 * bundles into one file. See rfc.zeromq.org/spec/37.
 *
 * What is sent within one turn of the event loop goes out as one write. The connection comes again by itself; nothing is
 * kept for a daemon that is not there.
 */

import { connect, type Socket } from "node:net";

import type { Transport, TransportEvents } from "./transport.js";

const RECONNECT_MS = 50;
const RECONNECT_MS_MAX = 1000;
const HANDSHAKE_MS = 5000;
/** More than any reply of the daemon; a peer that announces more is none. */
const FRAME_BYTES_MAX = 256 * 1_048_576;
const COMMAND_BYTES_MAX = 4096;
const OUT_BYTES = 65_536;
/** A buffer that has grown beyond this is given back once it was sent. */
const OUT_BYTES_KEPT = 1_048_576;
const GREETING_BYTES = 64;
const MORE = 1, LONG = 2, COMMAND = 4;

const text = new TextEncoder();

/** Our greeting: signature, version 3.1, mechanism NULL, as no server. */
function greeting(): Uint8Array {
  const bytes = new Uint8Array(GREETING_BYTES);
  bytes[0] = 0xff;
  bytes[9] = 0x7f;
  bytes[10] = 3;
  bytes[11] = 1;
  bytes.set(text.encode("NULL"), 12);
  return bytes;
}

/** A command frame of at most 255 bytes. */
function command(name: string, data: Uint8Array): Uint8Array {
  const size = 1 + name.length + data.length;
  const bytes = new Uint8Array(2 + size);
  bytes[0] = COMMAND;
  bytes[1] = size;
  bytes[2] = name.length;
  bytes.set(text.encode(name), 3);
  bytes.set(data, 3 + name.length);
  return bytes;
}

function property(name: string, value: string): Uint8Array {
  const bytes = new Uint8Array(1 + name.length + 4 + value.length);
  bytes[0] = name.length;
  bytes.set(text.encode(name), 1);
  bytes[1 + name.length + 3] = value.length;
  bytes.set(text.encode(value), 1 + name.length + 4);
  return bytes;
}

/** The text of at most `size` bytes, to the first zero. */
function nameAt(bytes: Uint8Array, start: number, size: number): string {
  return String.fromCharCode(...bytes.subarray(start, start + size)).split("\0", 1)[0]!;
}

/** The Socket-Type among the properties of a READY; undefined if there is none, or they cannot be read. */
function socketType(data: Uint8Array): string | undefined {
  let found: string | undefined;
  for (let at = 0; at < data.length;) {
    const value = at + 1 + data[at]! + 4;
    if (value > data.length) return undefined;
    const size = new DataView(data.buffer, data.byteOffset + value - 4, 4).getUint32(0);
    if (value + size > data.length) return undefined;
    if (nameAt(data, at + 1, data[at]!).toLowerCase() === "socket-type") found = nameAt(data, value, size);
    at = value + size;
  }
  return found;
}

const READY = command("READY", property("Socket-Type", "DEALER"));

/** The DEALER of one unix socket. */
export class ZmtpDealer implements Transport {
  connected = false;
  private socket: Socket | undefined;
  private closed = false;
  private referenced = true;
  private waitMs = RECONNECT_MS;
  private timer: NodeJS.Timeout | undefined;
  private greeted = false;
  /** Bytes of frames that are not whole yet, as they arrived, and how many they are. */
  private chunks: Uint8Array[] = [];
  private buffered = 0;
  /** How many bytes there have to be before a look at them is worth it. */
  private wanted = GREETING_BYTES;
  private isMore = false;
  private out = new Uint8Array(OUT_BYTES);
  private used = 0;
  private flushing = false;
  private onClosed: (() => void) | undefined;

  constructor(private readonly path: string, private readonly events: TransportEvents) {
    this.open();
  }

  send(body: Uint8Array): void {
    const size = body.length;
    const head = size < 256 ? 2 : 9;
    this.reserve(size + head);
    const { out } = this;
    let at = this.used;
    if (head === 2) {
      out[at++] = 0;
      out[at++] = size;
    } else {
      out[at] = LONG;
      new DataView(out.buffer).setBigUint64(at + 1, BigInt(size));
      at += 9;
    }
    out.set(body, at);
    this.used = at + size;
    if (!this.flushing) {
      this.flushing = true;
      setImmediate(this.flush);
    }
  }

  close(): void {
    if (this.closed) return;
    this.flush();
    this.closed = true;
    clearTimeout(this.timer);
    const { socket } = this;
    if (socket === undefined) return;
    socket.end();
    setTimeout(() => socket.destroy(), 100).unref();
  }

  async ended(): Promise<void> {
    const { socket } = this;
    if (socket === undefined || socket.destroyed) return;
    await new Promise<void>((resolve) => { this.onClosed = resolve; });
  }

  ref(): void {
    this.referenced = true;
    this.socket?.ref();
    this.timer?.ref();
  }

  unref(): void {
    this.referenced = false;
    this.socket?.unref();
    this.timer?.unref();
  }

  // ------------------------------------------------------------------ the connection
  private open(): void {
    const socket = connect({ path: this.path });
    this.socket = socket;
    this.greeted = this.isMore = false;
    this.chunks = [];
    this.buffered = this.used = 0;
    this.wanted = GREETING_BYTES;
    if (!this.referenced) socket.unref();
    const patience = setTimeout(() => socket.destroy(), HANDSHAKE_MS);
    patience.unref();
    socket.on("connect", () => socket.write(greeting()));
    socket.on("data", (chunk: Uint8Array) => {
      try {
        this.take(chunk);
        if (this.connected) clearTimeout(patience);
      } catch (error) {
        socket.destroy(error as Error);
      }
    });
    let why = "the daemon closed the connection";
    socket.on("error", (error: NodeJS.ErrnoException) => { why = error.message; });
    socket.on("close", () => {
      clearTimeout(patience);
      const was = this.connected;
      this.connected = false;
      this.socket = undefined;
      if (was) this.events.disconnected(why);
      this.onClosed?.();
      if (!this.closed) this.again();
    });
  }

  private again(): void {
    this.timer = setTimeout(() => {
      this.timer = undefined;
      this.open();
    }, this.waitMs);
    if (!this.referenced) this.timer.unref();
    this.waitMs = Math.min(this.waitMs * 2, RECONNECT_MS_MAX);
  }

  private reserve(size: number): void {
    const needed = this.used + size;
    if (needed <= this.out.length) return;
    const larger = new Uint8Array(Math.max(needed, this.out.length * 2));
    larger.set(this.out.subarray(0, this.used));
    this.out = larger;
  }

  /** One write of all that was sent within this turn. The socket keeps the bytes, so the next turn gets others. */
  private readonly flush = (): void => {
    this.flushing = false;
    if (this.used === 0 || this.socket === undefined || this.closed) return;
    this.socket.write(this.out.slice(0, this.used));
    this.used = 0;
    if (this.out.length > OUT_BYTES_KEPT) this.out = new Uint8Array(OUT_BYTES);
  };

  // ------------------------------------------------------------------ what arrives
  private take(chunk: Uint8Array): void {
    let bytes = new Uint8Array(chunk.buffer, chunk.byteOffset, chunk.length);  // a plain one: no Buffer reaches a host
    if (this.buffered > 0 || !this.greeted) {
      this.chunks.push(bytes);
      this.buffered += bytes.length;
      if (this.buffered < this.wanted) return;
      bytes = this.gathered();
    }
    let at = 0;
    if (!this.greeted) {
      if (bytes[0] !== 0xff || (bytes[9]! & 1) !== 1 || bytes[10]! < 3) throw new Error("the peer does not speak ZMTP 3");
      if (nameAt(bytes, 12, 20) !== "NULL") throw new Error("the peer wants another mechanism than NULL");
      this.greeted = true;
      this.socket!.write(READY);
      at = GREETING_BYTES;
    }
    at = this.frames(bytes, at);
    if (at < bytes.length) {
      this.chunks.push(at === 0 ? bytes : bytes.subarray(at));
      this.buffered = bytes.length - at;
    }
  }

  /** Takes every whole frame; where the first one begins that is not. */
  private frames(bytes: Uint8Array, from: number): number {
    const end = bytes.length;
    let at = from;
    while (end - at >= 2) {
      const flags = bytes[at]!;
      if (flags & ~(MORE | LONG | COMMAND)) throw new Error("unknown flags of a frame");
      let start = at + 2;
      let size = bytes[at + 1]!;
      if (flags & LONG) {
        start = at + 9;
        if (end < start) {
          this.wanted = 9;
          return at;
        }
        size = Number(new DataView(bytes.buffer, bytes.byteOffset + at + 1, 8).getBigUint64(0));
        if (size > FRAME_BYTES_MAX) throw new Error("a frame that is too large");
      }
      if (end < start + size) {
        this.wanted = start + size - at;
        return at;
      }
      at = start + size;
      if (flags & COMMAND) this.commanded(bytes.subarray(start, at));
      else if (!this.connected) throw new Error("a message before READY");
      else if (flags & MORE) this.isMore = true;  // the body is the last frame; those before it say nothing to us
      else {
        this.isMore = false;
        this.events.message(bytes.subarray(start, at));
      }
    }
    this.wanted = 2;
    return at;
  }

  private commanded(body: Uint8Array): void {
    if (body.length > COMMAND_BYTES_MAX) throw new Error("a command that is too large");
    const name = nameAt(body, 1, body[0] ?? 0);
    if (name === "ERROR") throw new Error("the peer refused the connection");
    if (!this.connected) {
      if (name !== "READY") throw new Error("the handshake does not begin with READY");
      if (socketType(body.subarray(6)) !== "ROUTER") throw new Error("the peer is not a ROUTER");
      this.connected = true;
      this.waitMs = RECONNECT_MS;
      this.events.connected();
    } else if (name === "PING") {
      this.socket?.write(command("PONG", body.subarray(7, 23)));
    }
  }

  private gathered(): Uint8Array<ArrayBuffer> {
    const whole = new Uint8Array(this.buffered);
    let at = 0;
    for (const chunk of this.chunks) {
      whole.set(chunk, at);
      at += chunk.length;
    }
    this.chunks = [];
    this.buffered = 0;
    return whole;
  }
}

