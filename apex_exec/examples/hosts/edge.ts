/**
 * A dashboard as a Deno edge function (Supabase, Deno Deploy): `fetch` alone, without a socket, a package or a file.
 *
 *   APEX_DOOR=http://127.0.0.1:9466 deno run --allow-net --allow-env=APEX_DOOR,PORT edge.ts
 *
 *   GET  /dashboards/ID            a page with the widgets of every plugin (`onDashboardLoad`)
 *   POST /actions/PLUGIN/ACTION    one action of one plugin, its context as JSON; with an Idempotency-Key it runs once
 *
 * The visitor's own token goes on to the HTTP door (`apex-exec door`), which checks it and acts as its user. So this
 * function holds no secret, and cannot act as anybody else. If a visitor leaves, the hooks that run are cancelled.
 */

const DOOR = Deno.env.get("APEX_DOOR") ?? "http://127.0.0.1:9466";
const DEADLINE_MS = 2000;
/** How much later than its deadline an answer may arrive. */
const GRACE_MS = 500;
const PAUSE_MS = 100;

type Json = null | boolean | number | string | Json[] | { [key: string]: Json };
interface Widget {
  id: string;
  component: string;
  props: Json;
}
interface Problem {
  status: number;
  code: string;
  detail: string;
  /** True if the call has certainly not run, and may be tried again. */
  retryable: boolean;
}
interface Dispatched {
  result: { customWidgets: Widget[] };
  outcomes: { plugin: string; ok: boolean; error?: { code: string } }[];
}
interface Result {
  result: { result: Json; metadata: Json };
}

const NO_ANSWER = {
  status: 503, code: "NO_ANSWER", detail: "no answer came; whether the call has run is not known", retryable: false,
};
const NO_JSON = { status: 400, code: "INVALID_INPUT", detail: "the body is not JSON", retryable: false };

/** An answer of the door that is not a result, or its absence. */
class Refused extends Error {
  constructor(readonly problem: Problem, readonly retryAfter: string | null) {
    super(problem.detail);
  }
}

/** One request to the door in the name of the visitor who sent `visit`. Throws Refused. */
async function ask<Answer>(path: string, body: Json, visit: Request): Promise<Answer> {
  const headers = new Headers({ "Content-Type": "application/json", "Deadline-Ms": String(DEADLINE_MS) });
  for (const name of ["Authorization", "Idempotency-Key", "traceparent"]) {
    const value = visit.headers.get(name);
    if (value !== null) headers.set(name, value);
  }
  const signal = AbortSignal.any([visit.signal, AbortSignal.timeout(DEADLINE_MS + GRACE_MS)]);
  const request = { method: "POST", headers, body: JSON.stringify(body), signal };
  for (let tries = 0;; tries++) {
    const answer = await fetch(`${DOOR}${path}`, request).catch(() => { throw new Refused(NO_ANSWER, null); });
    const said = await answer.json().catch(() => { throw new Refused(NO_ANSWER, null); });
    if (answer.ok) return said;
    const problem: Problem = said;
    if (!problem.retryable || tries > 0) throw new Refused(problem, answer.headers.get("Retry-After"));
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
}

/** What a plugin says is shown as text, and never as markup. */
function escaped(text: string): string {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}

function page(dashboardId: string, { result, outcomes }: Dispatched): string {
  const widgets = result.customWidgets.map(({ id, component, props }) => {
    const data = escaped(JSON.stringify(props));
    return `<section id="${escaped(id)}" data-component="${escaped(component)}" data-props="${data}"></section>`;
  });
  const missing = outcomes.filter(({ ok }) => !ok).map(({ plugin, error }) =>
    `<p data-plugin="${escaped(plugin)}" data-code="${escaped(error?.code ?? "")}">A plugin is not shown.</p>`);
  return `<!doctype html>\n<title>${escaped(dashboardId)}</title>\n${[...widgets, ...missing].join("\n")}\n`;
}

async function dashboard(dashboardId: string, visit: Request): Promise<Response> {
  const event = { action: "onDashboardLoad", payload: { dashboardId } };
  const dispatched = await ask<Dispatched>("/v1/dispatch", event, visit);
  return new Response(page(dashboardId, dispatched), {
    headers: { "Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": "default-src 'none'" },
  });
}

async function act(plugin: string, action: string, visit: Request): Promise<Response> {
  const context: Json = await visit.json().catch(() => { throw new Refused(NO_JSON, null); });
  const call = { plugin, action: "onActionExecute", payload: { action, context } };
  return Response.json((await ask<Result>("/v1/invoke", call, visit)).result);
}

/** The names in a path; none if it cannot be read. */
function namesIn(path: string): string[] {
  try {
    return path.split("/").slice(1).map(decodeURIComponent);
  } catch {
    return [];
  }
}

/** The answer to a visitor. */
export async function handle(visit: Request): Promise<Response> {
  const [place, first, second, ...more] = namesIn(new URL(visit.url).pathname);
  const asked = `${visit.method} ${place} ${[first, second, ...more].filter((name) => name).length}`;
  try {
    if (asked === "GET dashboards 1") return await dashboard(first, visit);
    if (asked === "POST actions 2") return await act(first, second, visit);
    return new Response("Not found\n", { status: 404 });
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    const { status, code, detail } = error.problem;
    const headers = error.retryAfter === null ? undefined : { "Retry-After": error.retryAfter };
    return Response.json({ code, detail }, { status, headers });
  }
}

if (import.meta.main) {
  const port = Number(Deno.env.get("PORT") ?? 8000);
  Deno.serve({ port, onListen: (address) => console.log(`port ${address.port}`) }, handle);
}
