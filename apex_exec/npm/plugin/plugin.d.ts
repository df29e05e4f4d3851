/**
 * Types of plugins for apex-exec. They describe what a plugin is given and has to return; the daemon checks both.
 * What stands between marks is made from the daemon's catalogue by `python -m apex_exec.catalogue`.
 */

/** What the platform hands out: what MessagePack and JSON can say, moments and bytes. */
export type Value = null | boolean | number | bigint | string | Date | Uint8Array | Value[] | { [key: string]: Value };

// <hooks>
/** The parameters of each hook. */
export interface HookParams {
  /** In a dispatch: all at once; widgets in (priority, id) order, ids prefixed <plugin>/. */
  onDashboardLoad: { dashboardId: string; userId: string };
  /** In a dispatch: one after another on the last good data. */
  onDataFetch: { query: string; filters: Record<string, unknown>; data?: unknown };
  /** In a dispatch: one after another to the first result that is not null. */
  onActionExecute: { action: string; context: Record<string, unknown> };
  /** In a dispatch: all at once. */
  onAuthSuccess: { sessionId: string; userId: string };
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
  onAuthSuccess: void | null;
}
// </hooks>

/** The name of a hook. */
export type HookName = keyof HookParams & keyof HookResults;

/** What every hook is given beside its own parameters. The platform's names win over a parameter of the same name. */
export interface CallContext<Hook extends HookName = HookName> {
  /** The user on whose behalf the hook runs. */
  readonly userId: string;
  readonly pluginId: string;
  readonly hook: Hook;
  /** The hook's own parameters, whatever their names are. */
  readonly params: HookParams[Hook];
  /** The platform's API for this call; afterwards every method rejects with the code `cancelled`. */
  readonly api: Api;
  /** Writes to the plugin's log. */
  readonly log: Log;
  /**
   * The values of the settings that the manifest declares, for this call's user: what the operator has set, or the
   * defaults. A setting that has neither is not there, and neither is a secret that the gateway puts into requests.
   */
  readonly settings: Readonly<Record<string, unknown>>;
  /** How many milliseconds are left before the hook is stopped. */
  remainingMs(): number;
}

/** The argument of a hook: its parameters, and what every hook is given. */
export type HookContext<Hook extends HookName = HookName> =
  Hook extends HookName ? Omit<HookParams[Hook], keyof CallContext> & CallContext<Hook> : never;

/** The plugin's log; the same as `console`. */
export interface Log {
  log(...data: unknown[]): void;
  debug(...data: unknown[]): void;
  info(...data: unknown[]): void;
  warn(...data: unknown[]): void;
  error(...data: unknown[]): void;
}

// <permissions>
/** What a plugin may ask for. Those of administrators need an approval for each version. */
export type Permission =
  | "data:read"
  | "data:write"
  | "ui:render"
  | "events:emit"
  | "network:fetch"
  | "admin:users"
  | "admin:billing"
  | "system:config";
// </permissions>

/** What a plugin's entry point exports as its default. */
export interface Plugin {
  /** As in the manifest. */
  id: string;
  /** As in the manifest: three numbers. */
  version: string;
  permissions?: readonly Permission[];
  hooks: { [Hook in HookName]?: (context: HookContext<Hook>) => HookResults[Hook] | Promise<HookResults[Hook]> };
}

/** What `fetch` of the API answers. */
export interface Fetched {
  status: number;
  headers: Record<string, string>;
  /** Text if the response says that it is text, else bytes; with `readAs`, what that says. */
  body: string | Uint8Array;
  /** The body as text; bytes are read as UTF-8. */
  text(): string;
  /** The value that the body is in JSON. */
  json<T = unknown>(): T;
  /** The body as the server sent it, after decompression. */
  bytes(): Uint8Array;
}

/** What a write answers. */
export interface Written<Row = Record<string, Value>> {
  /** How many rows were written: for `upsert`, inserted and changed together. */
  rowCount: number;
  /** The row, if `values` was one row and it was asked for. Null if none was written. */
  row?: Row | null;
  /** The rows, if they were asked for by `returning`, in the order of `values`. */
  rows?: Row[];
}

// <api>
/** The platform's API. A call that is refused rejects with an `ApiError`. */
export interface Api {
  /** Rows of the caller's own data (`data:read`). */
  query<Row = Record<string, Value>>(sql: string, params?: readonly unknown[]): Promise<Row[]>;
  /** Adds one row owned by the caller, or a list of rows (`data:write`). */
  insert<Row = Record<string, Value>>(table: string, values: Record<string, unknown> | readonly Record<string, unknown>[], options?: { returning?: boolean | readonly string[] }): Promise<Written<Row>>;
  /** Adds rows, or changes the caller's row with the same values in the columns `on` (`data:write`). */
  upsert<Row = Record<string, Value>>(table: string, values: Record<string, unknown> | readonly Record<string, unknown>[], options: { on: string | readonly string[]; update?: readonly string[]; returning?: boolean | readonly string[] }): Promise<Written<Row>>;
  /** Changes the caller's rows that match `where` (`data:write`). */
  update<Row = Record<string, Value>>(table: string, values: Record<string, unknown>, where: Record<string, unknown>, options?: { returning?: boolean | readonly string[] }): Promise<Written<Row>>;
  /** Deletes the caller's rows that match `where` (`data:write`). */
  delete<Row = Record<string, Value>>(table: string, where: Record<string, unknown>, options?: { returning?: boolean | readonly string[] }): Promise<Written<Row>>;
  /** Asks the platform to render `component` (`ui:render`). */
  renderWidget(widget: { component: string; props?: Record<string, unknown> }): Promise<void>;
  /** Asks the platform to emit `event` (`events:emit`). */
  emit(event: string, message?: { payload?: unknown }): Promise<void>;
  /** One HTTP request through the gateway (`network:fetch`). */
  fetch(url: string | { toString(): string }, init?: { method?: string; headers?: Record<string, string>; body?: unknown; timeoutMs?: number; retry?: boolean; readAs?: "auto" | "text" | "bytes" }): Promise<Fetched>;
  /** A host method (admin permissions). */
  call(method: string, params?: Record<string, unknown>): Promise<Value>;
  /** The methods of `storage`. */
  readonly storage: {
    /** What the plugin keeps under `key`, or null (`data:read`). */
    get<Kept = Value>(key: string, options?: { common?: boolean }): Promise<Kept | null>;
    /** Keeps `value` under `key`, in place of what stood there (`data:write`). */
    set(key: string, value: unknown, options?: { common?: boolean }): Promise<null>;
    /** Forgets what stands under `key`; whether anything did (`data:write`). */
    delete(key: string, options?: { common?: boolean }): Promise<boolean>;
    /** The keys that begin with `prefix`, with size and time, in order (`data:read`). */
    list(options?: { prefix?: string; after?: string; limit?: number; common?: boolean }): Promise<{ key: string; bytes: number; updatedAt: Date }[]>;
  };
}
// </api>

/** A refused call of the API. */
export interface ApiError extends Error {
  /** One of the codes in the daemon's protocol page, as `permission_denied`. */
  readonly code: string;
  /** The API's method that was refused. */
  readonly method: string;
  /** For `rate_limited`: when the next call may pass. */
  readonly retryAfterMs: number;
}

/** A class of refusals, for `instanceof`. */
export interface ApiErrorClass {
  new (code: string, message: string, method: string, retryAfterMs: number): ApiError;
  readonly prototype: ApiError;
}

declare global {
  /** The platform, for the call that is running. */
  const plugin: {
    readonly id: string;
    readonly version: string;
    readonly api: Api;
    readonly errors: {
      readonly [Name in
        "ApiError" | "PermissionDenied" | "RateLimited" | "DeadlineExceeded" | "InvalidOutput"]: ApiErrorClass;
    };
  };
}
