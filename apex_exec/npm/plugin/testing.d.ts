import type { Api, HookName, HookParams, HookResults, Plugin } from "@apex-exec/plugin";

/** What the fake platform answers, by the API's method: a value, or a function of the call's arguments. */
export type Answers = { [Method in ApiMethod]?: unknown };

/** A method of the API as the plugin's calls are named: `query`, `storage.get`. */
export type ApiMethod = Exclude<keyof Api, "storage"> | `storage.${keyof Api["storage"]}`;

/** A call of the API: the method, and the arguments that it was given. */
export type Call = [method: ApiMethod, ...given: unknown[]];

/**
 * Plays the platform for a plugin's tests. Like the real one it refuses what the plugin has no permission for. What
 * `answers` leaves out: a query has no rows, a write answers with the rows that it was given, `fetch` and `call` are
 * refused, `storage` keeps what it is given in memory, and everything else answers nothing.
 */
export class FakePlatform<P extends Plugin = Plugin> {
  constructor(plugin: P, answers?: Answers);
  /** What `api.storage` keeps, by "<user>/<key>"; of what is common to all users the user is "". */
  readonly storage: Map<string, unknown>;
  /** Every call of the API, in order. */
  readonly calls: Call[];
  /** What the hooks have written to `context.log`, in order, each with its level. */
  readonly logged: [level: "debug" | "info" | "log" | "warn" | "error", ...data: unknown[]][];
  /** Runs a hook as a worker does. Rejects with what the hook throws. */
  call<Hook extends HookName>(hook: Hook, params?: Omit<HookParams[Hook], "userId"> & { userId?: string },
                              options?: { userId?: string; timeoutMs?: number }): Promise<HookResults[Hook]>;
}
