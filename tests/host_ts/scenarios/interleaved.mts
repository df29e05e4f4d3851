/**
 * Many calls in flight on one DEALER: four plugins, all hooks, a random nonce in each, bodies of 100 B to 64 KiB,
 * errors, cancels and workers that die among them. Each request must get exactly one reply, and the right one.
 *
 *   node interleaved.mjs ENDPOINT TOTAL SEED
 */

import assert from "node:assert/strict";

import { Bare, done, ENDPOINT, type Message } from "./support.mjs";

const TOTAL = Number(process.argv[3] ?? 10_000);
let state = Number(process.argv[4] ?? 1);
const WINDOW = 256;
const USERS = 200;  // nobody may hold more than a quarter of a plugin's queue

/** mulberry32: the run can be repeated from its seed. */
function random(): number {
  state = (state + 0x6d2b79f5) | 0;
  let t = Math.imul(state ^ (state >>> 15), 1 | state);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
}
const below = (n: number): number => Math.floor(random() * n);

interface Asked {
  message: Message;
  nonce: string;
  fill: string;
  cancelled: boolean;
}

function ask(id: number): Asked {
  const nonce = `${id}-${below(2 ** 31).toString(36)}`;
  const bytes = Math.floor(100 * Math.exp(random() * Math.log(65_536 / 100)));  // as many small as large
  const fill = nonce.repeat(Math.ceil(bytes / nonce.length)).slice(0, bytes);
  const action = ["onDashboardLoad", "onDataFetch", "onActionExecute", "onAuthSuccess"][below(4)]!;
  const dice = random();
  const act = dice < 0.01 ? "exit" : dice < 0.05 ? "raise" : dice < 0.08 ? "wrong" : "echo";
  const payload: Message = {
    onDashboardLoad: { dashboardId: nonce, fill },
    onDataFetch: { query: nonce, filters: { fill } },
    onActionExecute: { action: act, context: { nonce, fill } },
    onAuthSuccess: { sessionId: nonce, fill, speak: dice < 0.05 },
  }[action]!;
  const userId = `${below(USERS).toString(16).padStart(8, "0")}-2222-4333-8444-555555555555`;
  const plugin = `echo-${"abcd"[below(4)]}`;
  const message = { type: "invoke", id, plugin, action, userId, payload, deadlineMs: 5000 };
  return { message, nonce, fill, cancelled: random() < 0.02 };
}

/** Why `reply` is not a right answer to what was asked; "" where it is. */
function wrong({ message, nonce, fill, cancelled }: Asked, reply: Message): string {
  if (reply["plugin"] !== message["plugin"] || reply["action"] !== message["action"]) {
    return cancelled && reply["code"] === "CANCELLED" ? "" : "another plugin's or hook's reply";
  }
  if (reply["type"] === "error") {
    if (reply["code"] === "CANCELLED") return cancelled ? "" : "cancelled without a cancel";
    if (reply["code"] === "WORKER_CRASHED") return "";  // counted below against the deaths that there were
    const act = message["payload"].action;
    if (act === "raise" && reply["code"] === "PLUGIN_ERROR") return reply["message"].includes(nonce) ? "" : "another's error";
    if ((act === "wrong" || message["payload"].speak) && reply["code"] === "INVALID_OUTPUT") return "";
    return "an error without a cause";
  }
  const { result } = reply;
  const inner = {
    onDashboardLoad: () => result.customWidgets[0].props,
    onDataFetch: () => result.transformedData,
    onActionExecute: () => ({ ...result.result, user: result.metadata.user }),
    onAuthSuccess: () => (result === null ? { nonce, fill, user: message["userId"] } : {}),
  }[message["action"] as "onDataFetch"]();
  if (message["payload"].action && message["payload"].action !== "echo") return "a result where an error was due";
  return inner.nonce === nonce && inner.fill === fill && inner.user === message["userId"] ? "" : "another's result";
}

const bare = new Bare(ENDPOINT);
const asked = new Map<number, Asked>();
const cancels = new Map<string, number>();
const counts: Record<string, number> = {};
let sent = 0, answered = 0, exits = 0, startedLost = 0, bytes = 0;

while (answered < TOTAL || cancels.size) {
  while (sent < TOTAL && asked.size < WINDOW) {
    const one = ask(sent);
    asked.set(sent, one);
    if (one.message["payload"].action === "exit") exits++;
    bytes += one.fill.length;
    await bare.send(one.message);
    if (one.cancelled) {
      cancels.set(`c${sent}`, sent);
      await bare.send({ type: "cancel", id: `c${sent}`, target: sent });
    }
    sent++;
  }
  const reply = await bare.receive(20_000);
  const id = reply["id"];
  if (reply["type"] === "cancelled") {
    assert.equal(cancels.get(id), reply["target"], "a cancel that was not asked, or answered twice");
    cancels.delete(id);
    continue;
  }
  const one = asked.get(id);
  assert(one !== undefined, `a second reply, or one to nobody: ${JSON.stringify(reply).slice(0, 500)}`);
  asked.delete(id);
  answered++;
  const fault = wrong(one, reply);
  assert.equal(fault, "", `${fault}: ${JSON.stringify(reply).slice(0, 500)} to ${JSON.stringify(one.message).slice(0, 300)}`);
  const outcome = reply["code"] ?? "ok";
  counts[outcome] = (counts[outcome] ?? 0) + 1;
  if (outcome === "WORKER_CRASHED" && reply["started"]) startedLost++;
}
bare.socket.receiveTimeout = 300;  // nothing more may come
await assert.rejects(bare.socket.receive());
done({ answered, counts, exits, startedLost, megabytes: Math.round(bytes / 1e6) });
