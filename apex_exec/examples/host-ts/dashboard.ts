/**
 * A platform with a dashboard: registers a plugin as the specification prints it, enables it, and dispatches
 * `onDashboardLoad` to a page. It runs on Node, Bun and Deno.
 *
 *   npm run dashboard -- ipc:///run/apex-exec/host.sock ipc:///run/apex-exec/admin.sock
 *
 * Then a browser shows http://127.0.0.1:8080/dashboards/main. `../hosts/edge.ts` is the same without a socket.
 */

import { createServer, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { argv, cwd, env } from "node:process";

import { ApexClient, CallError, type Dispatched } from "./client.js";
import { PluginRegistry } from "./registry.js";

const [endpoint, adminEndpoint, root = cwd()] = argv.slice(2);
if (endpoint === undefined || adminEndpoint === undefined) throw new Error("name the host and the admin endpoint");
const host = new ApexClient(endpoint);
const admin = new ApexClient(adminEndpoint);
const pluginRegistry = new PluginRegistry(admin, root);
/** A platform takes it from the visitor's session. */
const VISITOR = "11111111-2222-4333-8444-555555555555";
const DEADLINE_MS = 2000;

pluginRegistry.register({
  id: "custom-analytics",
  name: "Custom Analytics Dashboard",
  version: "1.0.0",
  author: "ACME Corp",
  permissions: ["data:read", "ui:render"],
  manifest: {
    entrypoint: "/plugins/custom-analytics/index.js",
    hooks: ["onDashboardLoad", "onDataFetch"],
  },
});
await pluginRegistry.enable("custom-analytics");

/** What a plugin says is shown as text, and never as markup. */
function escaped(text: string): string {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}

function page(dashboardId: string, { result, outcomes }: Dispatched<"onDashboardLoad">): string {
  const widgets = (result?.customWidgets ?? []).map(({ id, component, props }) => {
    const data = escaped(JSON.stringify(props));
    return `<section id="${escaped(id)}" data-component="${escaped(component)}" data-props="${data}"></section>`;
  });
  const missing = outcomes.filter(({ ok }) => !ok).map(({ plugin, error }) =>
    `<p data-plugin="${escaped(plugin)}" data-code="${escaped(error?.code ?? "")}">A plugin is not shown.</p>`);
  return `<!doctype html>\n<title>${escaped(dashboardId)}</title>\n${[...widgets, ...missing].join("\n")}\n`;
}

/** Answers one visit; a visitor who leaves has the hooks cancelled. */
async function visited(path: string, answer: ServerResponse): Promise<void> {
  const dashboardId = path.match(/^\/dashboards\/([\w-]+)$/)?.[1];
  if (dashboardId === undefined) return void answer.writeHead(404).end("Not found\n");
  const left = new AbortController();
  answer.on("close", () => left.abort());
  try {
    const options = { deadlineMs: DEADLINE_MS, signal: left.signal };
    const dispatched = await host.dispatch("onDashboardLoad", VISITOR, { dashboardId }, options);
    answer.setHeader("Content-Type", "text/html; charset=utf-8");
    answer.setHeader("Content-Security-Policy", "default-src 'none'");
    answer.end(page(dashboardId, dispatched));
  } catch (error) {
    answer.writeHead(503).end(error instanceof CallError ? `${error.code}\n` : "The dashboard cannot be had now\n");
  }
}

const server = createServer((visit, answer) => void visited(visit.url ?? "/", answer));
server.listen(Number(env["PORT"] ?? 8080), "127.0.0.1", () => {
  console.log(`http://127.0.0.1:${(server.address() as AddressInfo).port}/dashboards/main`);
});
