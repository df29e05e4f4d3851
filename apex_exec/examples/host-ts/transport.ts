/** What carries messages: `zmtp.ts` for unix sockets, `libzmq.ts` for tcp, which takes CURVE. */

import { LibzmqDealer } from "./libzmq.js";
import { ZmtpDealer } from "./zmtp.js";

export interface TransportEvents {
  connected(): void;
  disconnected(why: string): void;
  /** One message. The bytes are its own only until the handler returns, unless it copies them. */
  message(body: Uint8Array): void;
}

export interface Transport {
  readonly connected: boolean;
  /** Sends one message; only while `connected`. */
  send(body: Uint8Array): void;
  close(): void;
  /** Resolves once nothing of the connection is left. */
  ended(): Promise<void>;
  ref(): void;
  unref(): void;
}

/** Z85 keys, as `apex-exec keys curve` writes them. */
export interface Curve {
  serverPublicKey: string;
  publicKey: string;
  secretKey: string;
}

/** The transport of an endpoint. Throws where there is none. */
export function open(endpoint: string, curve: Curve | undefined, events: TransportEvents): Transport {
  endpoint = String(endpoint);  // undefined, from JavaScript, is told what it is
  if (endpoint.startsWith("ipc://") && curve === undefined) return new ZmtpDealer(endpoint.slice("ipc://".length), events);
  if (/^(tcp|ipc):\/\//.test(endpoint)) return new LibzmqDealer(endpoint, curve, events);
  throw new TypeError(`${endpoint} is no endpoint; write ipc:///run/apex-exec/host.sock, or tcp://host:port with keys`);
}
