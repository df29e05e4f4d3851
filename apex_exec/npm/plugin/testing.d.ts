import type { Api, HookName, HookParams, HookResults, Plugin } from "@apex-exec/plugin";

/** What the fake platform answers, by the API's method: a value, or a function of the call's arguments. */
export type Answers = { [Method in ApiMethod]?: unknown } & {
  /** What `context.settings` has. */
  settings?: Record<string, unknown>;
};

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
  /**
   * The same, each with the user of its call: `[userId, method, ...arguments]`. In `runTogether` the user is null where
   * the global `plugin.api` was used.
   */
  readonly callsBy: [userId: string | null, method: keyof Api, ...given: unknown[]][];
  /** What the hooks have written to `context.log`, in order, each with its level. */
  readonly logged: [level: "debug" | "info" | "log" | "warn" | "error", ...data: unknown[]][];
  /** Runs a hook as a worker does. Rejects with what the hook throws. */
  call<Hook extends HookName>(hook: Hook, params?: Omit<HookParams[Hook], "userId"> & { userId?: string },
                              options?: { userId?: string; timeoutMs?: number }): Promise<HookResults[Hook]>;
  /**
   * Runs several calls at once, as a worker does whose manifest has `limits.concurrency`, to find what goes wrong when
   * calls share the module's state. A call without a user has one of its own; calls of one user follow each other.
   * Answers of the API come in another order for each `seed`, and for one seed always in the same. Resolves to the
   * results in the order of `calls`; rejects with what the first call in that order threw, with the call and the seed.
   */
  runTogether(calls: readonly (readonly [hook: HookName, params?: Record<string, unknown>, userId?: string])[],
              options?: { concurrency?: number; seed?: number; timeoutMs?: number }): Promise<unknown[]>;
}
