/**
 * A DEALER of libzmq, by the npm package `zeromq`, for tcp with CURVE: node only, and loaded only where it is asked for,
 * so that a bundle without it runs.
 */

import type { Dealer } from "zeromq";

import type { Curve, Transport, TransportEvents } from "./transport.js";

const SEND_TIMEOUT_MS = 5000;
/** Not a literal where it is imported: else bundlers would look for an addon that most hosts do not have. */
const PACKAGE = "zeromq";

/** Connects once the package is loaded. Without it nothing ever connects, and `why` says so. */
export class LibzmqDealer implements Transport {
  connected = false;
  private socket: Dealer | undefined;
  private closed = false;
  private readonly outbox: Uint8Array[] = [];
  private sending = false;

  constructor(private readonly endpoint: string, private readonly curve: Curve | undefined,
              private readonly events: TransportEvents) {
    void this.open();
  }

  send(body: Uint8Array): void {
    this.outbox.push(body.slice());
    if (!this.sending) void this.drain();
  }

  close(): void {
    this.closed = true;
    this.outbox.length = 0;
    this.socket?.close();
  }

  async ended(): Promise<void> {}

  /** zeromq.js holds the process while its socket is open; there is no other way than to close it. */
  ref(): void {}

  unref(): void {}

  private async open(): Promise<void> {
    let made: typeof import("zeromq");
    try {
      made = await import(PACKAGE) as typeof import("zeromq");
    } catch (error) {
      process.emitWarning(`tcp needs the npm package zeromq, which cannot be loaded: ${String(error)}`, "ApexExecWarning");
      return;
    }
    if (this.closed) return;
    const { curve } = this;
    this.socket = new made.Dealer({
      immediate: true, linger: 0, reconnectInterval: 50, reconnectMaxInterval: 1000, sendTimeout: SEND_TIMEOUT_MS,
      // A machine or a network that has gone ends no connection; libzmq asks, and knows within a second.
      ...(this.endpoint.startsWith("tcp:") && { heartbeatInterval: 300, heartbeatTimeout: 900, connectTimeout: 2000 }),
      ...(curve && {
        curveServerKey: curve.serverPublicKey, curvePublicKey: curve.publicKey, curveSecretKey: curve.secretKey,
      }),
    });
    this.socket.events.on("disconnect", () => {
      this.connected = false;
      setImmediate(() => this.events.disconnected("the daemon closed the connection"));  // what had arrived is taken first
    });
    this.socket.events.on("handshake", () => {
      this.connected = true;
      this.events.connected();
    });
    this.socket.connect(this.endpoint);
    await this.receive(this.socket);
  }

  /** One at a time, as `zeromq` requires. */
  private async drain(): Promise<void> {
    this.sending = true;
    for (let body = this.outbox.shift(); body !== undefined && !this.closed; body = this.outbox.shift()) {
      try {
        await this.socket!.send(body);
      } catch {  // nobody took it in time: its caller's own time ends
      }
    }
    this.sending = false;
  }

  private async receive(socket: Dealer): Promise<void> {
    while (!this.closed && !socket.closed) {
      try {
        for await (const frames of socket) this.events.message(frames[frames.length - 1]!);
      } catch {  // the socket was closed
      }
    }
  }
}
