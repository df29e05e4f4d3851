/** The host protocol as types: what hooks take and return, and what the daemon answers. */

export type Id = number | string;

// Made by `python -m apex_exec.catalogue`.
// <hooks>
/** The payload of each hook. `userId` may be left out: the daemon fills it in. */
export interface HookPayloads {
  onDashboardLoad: { dashboardId: string; userId?: string };
  onDataFetch: { query: string; filters: Record<string, unknown>; data?: unknown };
  onActionExecute: { action: string; context: Record<string, unknown> };
  onAuthSuccess: { sessionId: string; userId?: string };
}

export interface Widget {
  id: string;
  component: string;
  props: Record<string, unknown>;
}

/** What each hook returns. */
export interface HookResults {
  onDashboardLoad: { customWidgets: Widget[] };
  onDataFetch: { transformedData: unknown };
  onActionExecute: { result: unknown; metadata: Record<string, unknown> };
  onAuthSuccess: null;
}
// </hooks>

/** What a dispatch of a hook comes to, if that has another type than what one plugin returns. */
export interface DispatchResults {}

export type Hook = keyof HookPayloads;

export type Effect =
  | { kind: "render"; component: string; props: Record<string, unknown> }
  | { kind: "emit"; event: string; payload: unknown };

export interface Usage {
  queueMs: number;
  executionTimeMs: number;
  cpuMs: number;
  memoryUsedMb: number;
  throttledMs: number;
  hostCpuMs: number;
  cold: boolean;
}

export interface Result<H extends Hook> {
  id: Id;
  plugin: string;
  action: H;
  result: HookResults[H];
  effects: Effect[];
  usage: Usage;
}

export interface Outcome<H extends Hook> {
  plugin: string;
  ok: boolean;
  result?: HookResults[H];
  error?: ErrorBody;
  effects: Effect[];
  usage: Usage;
}

export interface Dispatched<H extends Hook> {
  id: Id;
  action: H;
  result: (H extends keyof DispatchResults ? DispatchResults[H] : HookResults[H]) | null;
  outcomes: Outcome<H>[];
  partial: boolean;
}

export interface Welcome {
  id: Id;
  protocol: number;
  server: string;
  apiVersion: string;
  isolation: "L0" | "L1" | "L2" | "L3" | "L4";
  waived: string[];
  runtimes: string[];
  hooks: Hook[];
  limits: {
    // <limits>
    timeoutMs: number;
    memoryMb: number;
    cpuPercent: number;
    networkPerMinute: number;
    concurrency: number;
    // </limits>
    maxMessageBytes: number;
  };
}

export interface PluginInfo {
  id: string;
  version: string;
  hooks: Hook[];
  state: string;
}

export interface ErrorBody {
  code: string;
  message: string;
  started: boolean;
  retryable: boolean;
  plugin?: string;
  action?: string;
  details?: Record<string, unknown>;
  usage?: Usage;
}

/** One event of the ledger. */
export interface AuditEvent {
  seq: number;
  timestamp: string;
  eventType: string;
  userId: string;
  resource: string;
  action: string;
  result: "success" | "failure" | "denied";
  metadata: Record<string, unknown>;
}

/** Narrows what is read of the ledger; what is left out selects all. */
export interface AuditFilter {
  plugin?: string;
  user?: string;
  type?: string;
  result?: string;
  text?: string;
  looks?: boolean;
}

/** A plugin's call of a host method, as its handler sees it. */
export interface HostCall {
  callId: number;
  method: string;
  params: Record<string, unknown>;
  plugin: string;
  userId: string;
  deadlineMs: number;
}

/** Answers one host call; what it returns or resolves to is the result. */
export type HostMethod = (call: HostCall) => unknown;

/** The document's registration object. */
export interface Registration {
  id: string;
  name: string;
  version: string;
  author: string;
  permissions: string[];
  manifest: { entrypoint: string; hooks: Hook[] };
  [optional: string]: unknown;
}
