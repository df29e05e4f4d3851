/**
 * A fake platform for a plugin's own tests, under Node. In the jail (`apex-exec plugin test`) the same import is answered
 * by the jail's own. What stands between marks is made from the daemon's catalogue by `python -m apex_exec.catalogue`.
 */

// <permissions>
const METHODS = [
  "query",
  "insert",
  "upsert",
  "update",
  "delete",
  "renderWidget",
  "emit",
  "fetch",
  "storage.get",
  "storage.set",
  "storage.delete",
  "storage.list",
  "call"
];
const PERMISSIONS = {
  "query": "data:read",
  "insert": "data:write",
  "upsert": "data:write",
  "update": "data:write",
  "delete": "data:write",
  "renderWidget": "ui:render",
  "emit": "events:emit",
  "fetch": "network:fetch",
  "storage.get": "data:read",
  "storage.set": "data:write",
  "storage.delete": "data:write",
  "storage.list": "data:read"
};
const PREFIXES = {
  "admin.users.": "admin:users",
  "admin.billing.": "admin:billing",
  "system.config.": "system:config"
};
const FILLS_USER = [
  "onDashboardLoad",
  "onAuthSuccess"
];
const PARAMS = {
  "storage.get": (key, { common = false } = {}) => ({ key, common }),
  "storage.set": (key, value, { common = false } = {}) => ({ key, value, common }),
  "storage.delete": (key, { common = false } = {}) => ({ key, common }),
  "storage.list": ({ prefix = '', after = '', limit = 200, common = false } = {}) => ({ prefix, after, limit, common }),
};
// </permissions>

const WRITES = ["insert", "upsert", "update", "delete"];
const USER = "11111111-2222-4333-8444-555555555555";

class ApiError extends Error {
  constructor(code, message, method, retryAfterMs = 0) {
    super(message || code);
    Object.defineProperty(this, "name", { value: new.target.name, writable: true, configurable: true });
    this.code = code;
    this.method = method;
    this.retryAfterMs = retryAfterMs;
  }
}
class PermissionDenied extends ApiError {}
class RateLimited extends ApiError {}
class DeadlineExceeded extends ApiError {}
class InvalidOutput extends ApiError {}
const errors = Object.freeze({ ApiError, PermissionDenied, RateLimited, DeadlineExceeded, InvalidOutput });

/** The order of two texts by their code points, which is that of their bytes. */
const inBytes = (one, other) => {
  const ours = [...one], theirs = [...other];
  for (let i = 0; i < ours.length && i < theirs.length; i++)
    if (ours[i] !== theirs[i]) return ours[i].codePointAt(0) - theirs[i].codePointAt(0);
  return ours.length - theirs.length;
};
const define = (object, name, value) =>
  Object.defineProperty(object, name, { value, enumerable: true, writable: true, configurable: true });

/** `value`, which nothing can change any more, as `context.settings` is. */
function frozen(value) {
  if (value === null || typeof value !== "object") return value;
  for (const inner of Object.values(value)) frozen(inner);
  return Object.freeze(value);
}

/** Numbers from 0 up to 1, the same for the same seed. */
const chance = (seed) => () => {
  seed = (seed + 0x6d2b79f5) | 0;
  let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
};
const TURNS_MAX = 12; // of the queue of promises, after which an answer is there
const userOf = (number) => USER.slice(0, -12) + String(Number(USER.slice(-12)) + number).padStart(12, "0");
// What fetch answers, with functions that read the body, as the platform makes them.
function readable(reply) {
  const { body = "" } = reply, text = () => typeof body === "string" ? body : new TextDecoder().decode(body);
  const readers = { text, json: () => JSON.parse(text()), bytes: () => typeof body === "string" ? new TextEncoder().encode(body) : body };
  for (const [name, value] of Object.entries(readers)) Object.defineProperty(reply, name, { value, enumerable: false });
  return reply;
}

/** Answers a plugin's API calls. `calls` lists them in order, each as `[method, ...arguments]`. */
export class FakePlatform {
  calls = [];
  callsBy = [];
  logged = [];

  constructor(plugin, answers = {}) {
    const unknown = Object.keys(answers).find((name) => name !== "settings" && !METHODS.includes(name));
    if (unknown !== undefined)
      throw new TypeError(`FakePlatform has no answer ${JSON.stringify(unknown)}: they are settings, ${METHODS.join(", ")}`);
    this.plugin = plugin;
    this.answers = answers;
    this.storage = new Map(); // what `api.storage` keeps: "<user>/<key>" to its value; of what is common the user is ""
  }

  /** Runs a hook as a worker does; what the hook throws is thrown. */
  async call(hook, params = {}, { userId = USER, timeoutMs = 5000 } = {}) {
    const api = this.#api(userId, () => 0);
    return this.#within(api, () => this.#run(hook, params, userId, timeoutMs, api));
  }

  /** Runs several calls at once, each `[hook, params, userId]`, as a worker does whose manifest has `limits.concurrency`. */
  async runTogether(calls, { concurrency = 32, seed = 0, timeoutMs = 5000 } = {}) {
    const next = chance(seed), turns = () => Math.floor(next() * (TURNS_MAX + 1));
    const running = new Set(), latest = new Map(), all = [];
    const one = async ([hook, params, userId], number, before) => {
      await before;
      let timer;
      const late = new Promise((_, reject) => {
        timer = setTimeout(() => reject(new Error(`the call took longer than ${timeoutMs} ms`)), timeoutMs);
      });
      try {
        return await Promise.race([this.#run(hook, params, userId, timeoutMs, this.#api(userId, turns)), late]);
      } catch (error) {
        if (error instanceof Error) error.message += ` (call ${number} of runTogether, seed ${seed}: ${hook} of user ${userId})`;
        throw error;
      } finally { clearTimeout(timer) }
    };
    return this.#within(this.#api(null, turns), async () => {
      for (const [number, [hook, params, userId = userOf(number)]] of calls.entries()) {
        while (running.size >= concurrency) await Promise.race(running);
        const call = one([hook, params, userId], number, latest.get(userId));
        const ended = call.then(() => {}, () => {}).then(() => { running.delete(ended) });
        running.add(ended);
        latest.set(userId, ended);
        all.push(call);
      }
      await Promise.all(running);
      return Promise.all(all);
    });
  }

  async #run(hook, params = {}, userId, timeoutMs, api) {
    const run = this.plugin.hooks?.[hook];
    if (typeof run !== "function") throw new TypeError(`the plugin has no hook ${hook}`);
    const given = structuredClone(params);
    if (FILLS_USER.includes(hook)) given.userId ??= userId;
    const ends = performance.now() + timeoutMs;
    const context = {};
    for (const [name, value] of Object.entries(given)) define(context, name, value);
    const log = {};
    for (const level of ["debug", "info", "log", "warn", "error"])
      log[level] = (...data) => void this.logged.push([level, ...data]);
    const remainingMs = () => Math.max(0, ends - performance.now());
    const settings = frozen(structuredClone(this.answers.settings ?? {}));
    const ours = { userId, pluginId: this.plugin.id, hook, params: given, api, log, settings, remainingMs };
    for (const [name, value] of Object.entries(ours)) define(context, name, value);
    return run(context);
  }

  async #within(api, run) {
    const before = Object.getOwnPropertyDescriptor(globalThis, "plugin");
    const { id, version } = this.plugin;
    const value = Object.freeze({ id, version, api, errors });
    Object.defineProperty(globalThis, "plugin", { value, writable: true, configurable: true });
    try {
      return await run();
    } finally {
      if (before) Object.defineProperty(globalThis, "plugin", before);
      else delete globalThis.plugin;
    }
  }

  #api(userId, turns) {
    const api = {};
    for (const method of METHODS) {
      const [part, name] = method.split(".");
      const call = async (...given) => {
        const answer = this.#asked(userId, method, structuredClone(given));
        answer.catch(() => {}); // it is handed on below, some turns later
        for (let left = turns(); left > 0; left--) await null;
        return answer;
      };
      if (name === undefined) api[method] = call;
      else (api[part] ??= {})[name] = call;
    }
    return Object.freeze(api);
  }

  // What the gateway would answer, as far as it can be known without a database.
  #written(method, given) {
    const options = given[method === "update" ? 3 : 2] ?? {}, brings = method === "insert" || method === "upsert";
    const values = brings ? given[1] : {}, isSingle = !Array.isArray(values), rows = isSingle ? [values] : values;
    const asked = options.returning ?? (method === "insert" && isSingle ? true : null);
    if (!asked) return { rowCount: rows.length };
    const shown = rows.map((row) => asked === true ? row : Object.fromEntries(asked.map((name) => [name, row[name] ?? null])));
    return { rowCount: rows.length, ...(isSingle && brings ? { row: shown[0] } : { rows: shown }) };
  }

  #keep(method, { key, value, common, prefix, after, limit }, userId) {
    const owner = `${common ? "" : userId}/`;
    if (method === "storage.set") return this.storage.set(owner + key, value), null;
    if (method === "storage.delete") return this.storage.delete(owner + key);
    if (method === "storage.get") return structuredClone(this.storage.get(owner + key) ?? null);
    const keys = [...this.storage.keys()].filter((one) => one.startsWith(owner)).map((one) => one.slice(owner.length));
    const found = keys.filter((one) => one.startsWith(prefix) && inBytes(one, after) > 0).sort(inBytes);
    return found.slice(0, limit).map((one) => ({
      key: one, bytes: JSON.stringify(this.storage.get(owner + one)).length, updatedAt: new Date(0),
    }));
  }

  async #asked(userId, method, given) {
    this.calls.push([method, ...given]);
    this.callsBy.push([userId, method, ...given]);
    const ofHost = Object.entries(PREFIXES).find(([start]) => String(given[0]).startsWith(start))?.[1];
    const needed = PERMISSIONS[method] ?? ofHost;
    if (!needed || !this.plugin.permissions?.includes(needed))
      throw new PermissionDenied("permission_denied", `${method} needs ${needed ?? "an admin permission"}`, method);
    const returning = WRITES.includes(method) && method !== "insert" && given[method === "update" ? 3 : 2]?.returning;
    if (returning && !this.plugin.permissions.includes("data:read"))
      throw new PermissionDenied("permission_denied", `${method} with returning also needs data:read`, method);
    const answer = this.answers[method];
    if (answer !== undefined) {
      const value = structuredClone(typeof answer === "function" ? await answer(...given) : answer);
      return method === "fetch" && typeof value === "object" && value !== null ? readable(value) : value;
    }
    if (PARAMS[method]) return this.#keep(method, PARAMS[method](...given), userId);
    if (method === "query") return [];
    if (WRITES.includes(method)) return this.#written(method, given);
    const unknown = { fetch: "host_not_allowed", call: "not_provided" }[method];
    if (unknown) throw new ApiError(unknown, `the fake platform does not know ${given[0]}`, method);
    return undefined;
  }
}
