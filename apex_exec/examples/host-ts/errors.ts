/** What the client rejects with: one class per family of error codes, so that a host catches what it can act on. */

import type { ErrorBody, Usage } from "./protocol.js";

/** No reply will come: `executed` is false where the request never left, undefined where that is unknown. */
export class ConnectionLost extends Error {
  override readonly name = "ConnectionLost";
  readonly code = "CONNECTION_LOST";
  readonly retryable: boolean;

  constructor(message: string, readonly executed?: false) {
    super(message);
    this.retryable = executed === false;
  }
}

/** The daemon answered with an error. */
export class CallError extends Error {
  readonly code: string;
  /** Whether plugin code may have run for this request. */
  readonly started: boolean;
  /** Whether sending it again cannot run a hook twice. */
  readonly retryable: boolean;
  readonly details: Record<string, unknown>;
  readonly usage: Usage | undefined;

  constructor(readonly reply: ErrorBody) {
    super(`${reply.code}: ${reply.message}`);
    this.name = new.target.name;
    this.code = reply.code;
    this.started = reply.started;
    this.retryable = reply.retryable;
    this.details = reply.details ?? {};
    this.usage = reply.usage;
  }
}

/** The request itself is wrong; `details.path` names the place where it is known. */
export class InvalidRequest extends CallError {}
/** There is no such plugin or hook, or it is not enabled for this user. */
export class NotServed extends CallError {}
/** Nothing was run; try again, after `details.retryAfterMs` where it is given. */
export class Busy extends CallError {}
/** The hook was ended for its time, its memory or its CPU. */
export class LimitExceeded extends CallError {}
/** The plugin's fault: it raised, crashed, did not load or returned what it must not. */
export class PluginFailed extends CallError {}
/** The plugin asked for what it may not have and did not handle the refusal. */
export class ApiRefused extends CallError {}
/** An administrative operation was refused; `details.reason` is the machine's word for it. */
export class AdminRefused extends CallError {}
/** The request was cancelled by this connection. */
export class Cancelled extends CallError {}
/** The daemon's own fault. */
export class DaemonFault extends CallError {}

/** Every error code of the protocol, by family. */
export const FAMILIES: Record<string, typeof CallError> = {
  PROTOCOL_ERROR: InvalidRequest,
  DUPLICATE_ID: InvalidRequest,
  PAYLOAD_TOO_LARGE: InvalidRequest,
  INVALID_INPUT: InvalidRequest,
  UNSUPPORTED_PROTOCOL: InvalidRequest,
  PLUGIN_NOT_FOUND: NotServed,
  HOOK_NOT_DECLARED: NotServed,
  PLUGIN_DISABLED: NotServed,
  OVERLOADED: Busy,
  DEADLINE_EXCEEDED: Busy,
  QUARANTINED: Busy,
  AUDIT_UNAVAILABLE: Busy,
  SHUTTING_DOWN: Busy,
  TIMEOUT: LimitExceeded,
  MEMORY_LIMIT: LimitExceeded,
  CPU_LIMIT: LimitExceeded,
  WORKER_CRASHED: PluginFailed,
  BOOT_FAILED: PluginFailed,
  PLUGIN_ERROR: PluginFailed,
  WORKER_VIOLATION: PluginFailed,
  INVALID_OUTPUT: PluginFailed,
  PERMISSION_DENIED: ApiRefused,
  RATE_LIMITED: ApiRefused,
  NOT_PROVIDED: ApiRefused,
  NOT_FOUND: AdminRefused,
  CONFLICT: AdminRefused,
  REFUSED: AdminRefused,
  FORBIDDEN: AdminRefused,
  CANCELLED: Cancelled,
  INTERNAL: DaemonFault,
  NODE_LOST: DaemonFault,
};

/** The typed error of an `error` message; a code that a newer daemon sends is a plain CallError. */
export function errorOf(reply: ErrorBody): CallError {
  return new (FAMILIES[reply.code] ?? CallError)(reply);
}

/** An error found before anything was sent, shaped as the daemon would have answered. */
export function localError(code: string, message: string, details: Record<string, unknown> = {}): CallError {
  return errorOf({ code, message, started: false, retryable: false, details });
}
