// Keeps the live parts of a page up to date, and shows times in the reader's zone. Without it pages work, and stand still.
"use strict";

function localise(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const moment = new Date(time.getAttribute("datetime"));
    if (Number.isNaN(moment.getTime())) continue;
    time.title = time.textContent;
    time.textContent = moment.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
  }
}

// What a reader has open, focused or scrolled within a part stays so when the part is replaced.
function remember(region) {
  const focused = region.contains(document.activeElement) ? document.activeElement : null;
  return {
    open: Array.from(region.querySelectorAll("details[open][id]"), (one) => one.id),
    focus: focused && (focused.id ? `#${CSS.escape(focused.id)}`
      : focused.getAttribute("href") ? `a[href="${CSS.escape(focused.getAttribute("href"))}"]` : null),
    scrolls: Array.from(region.querySelectorAll(".log, pre"),
      (one) => (one.scrollTop + one.clientHeight >= one.scrollHeight - 4 ? null : one.scrollTop)),
  };
}

function restore(region, kept) {
  for (const id of kept.open) region.querySelector(`#${CSS.escape(id)}`)?.setAttribute("open", "");
  if (kept.focus) region.querySelector(kept.focus)?.focus({ preventScroll: true });
  region.querySelectorAll(".log, pre").forEach((one, index) => {
    const at = kept.scrolls[index];
    one.scrollTop = at === null || at === undefined ? (one.matches(".log") ? one.scrollHeight : 0) : at;
  });
}

function hasSelection(region) {
  const selection = document.getSelection();
  return selection && !selection.isCollapsed && region.contains(selection.anchorNode);
}

// A button that is replaced between press and release would lose the click.
let isPressed = false;
addEventListener("pointerdown", () => { isPressed = true; }, true);
for (const end of ["pointerup", "pointercancel"]) addEventListener(end, () => { isPressed = false; }, true);

async function refresh(region) {
  if (document.hidden || hasSelection(region)) return;
  let text;
  const since = region.querySelector("[data-since]");
  try {
    const headers = { "X-Fragment": "1", ...(since && { "X-Since": since.dataset.since }) };
    const answer = await fetch(location.href, { headers, redirect: "error", cache: "no-store" });
    if (answer.headers.get("X-Reload")) return location.reload(); // the page is another one now
    if (answer.status === 204) { // nothing is new
      since.dataset.since = answer.headers.get("X-Since");
      return region.classList.remove("lost");
    }
    if (answer.status === 401) return location.assign("/login");
    if (answer.ok && "away" in region.dataset) return location.reload();
    text = await answer.text();
  } catch {
    text = "";
  }
  region.classList.toggle("lost", !text);
  if (!text || text === region.latest || isPressed || hasSelection(region)) return;
  const kept = remember(region);
  region.latest = text;
  region.innerHTML = text;
  localise(region);
  restore(region, kept);
}

for (const region of document.querySelectorAll("[data-live]")) {
  const seconds = Number(region.dataset.live);
  if (seconds > 0) (async function again() {
    await new Promise((done) => setTimeout(done, 1000 * seconds));
    await refresh(region);
    again();
  })();
}
// A statement is signed here: the private key is read from its file, signs, and goes nowhere.
async function sign(form) {
  const file = form.querySelector("input[type=file]").files[0];
  const body = (await file.text()).match(/-----BEGIN PRIVATE KEY-----([A-Za-z0-9+/=\s]+)-----END PRIVATE KEY-----/);
  if (!body) throw new Error("This file has no private key: choose the .key file, not the .pub.");
  const der = Uint8Array.from(atob(body[1].replace(/\s/g, "")), (one) => one.charCodeAt(0));
  const key = await crypto.subtle.importKey("pkcs8", der, { name: "Ed25519" }, false, ["sign"]);
  const message = new TextEncoder().encode(form.dataset.prefix + form.dataset.statement);
  const made = new Uint8Array(await crypto.subtle.sign("Ed25519", key, message));
  return Array.from(made, (one) => one.toString(16).padStart(2, "0")).join("");
}

for (const form of document.querySelectorAll("form[data-sign]")) {
  const problem = form.querySelector(".problem");
  form.addEventListener("submit", async (event) => {
    if (form.elements.signature.value) return;
    event.preventDefault();
    problem.hidden = true;
    try {
      form.elements.signature.value = await sign(form);
      form.querySelector("input[type=file]").disabled = true; // not even its name is sent
      form.submit();
    } catch (error) {
      problem.textContent = crypto.subtle && error.name !== "NotSupportedError" ? `It could not be signed: ${error.message}`
        : "This browser cannot sign with Ed25519: use the command below.";
      problem.hidden = false;
    }
  });
}
// A bundle is too large for a form: it is sent in parts under its SHA-256, and then the form goes with that hash alone.
async function upload(form, say) {
  const bytes = await form.querySelector("input[type=file]").files[0].arrayBuffer();
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  const digest = Array.from(hash, (one) => one.toString(16).padStart(2, "0")).join("");
  const size = Number(form.dataset.part);
  for (let offset = 0; offset === 0 || offset < bytes.byteLength; offset += size) {
    say(`Sending: ${Math.round(100 * offset / Math.max(1, bytes.byteLength))} %`);
    const answer = await fetch(`${form.dataset.upload}?digest=${digest}&offset=${offset}`, {
      method: "POST", redirect: "error", body: bytes.slice(offset, offset + size),
      headers: { "Content-Type": "application/octet-stream", "X-CSRF": form.elements.csrf.value } });
    if (!answer.ok) {
      const found = await answer.json().catch(() => ({}));
      throw new Error(found.problem || `the console answered ${answer.status}; open the page again`);
    }
  }
  form.elements.size.value = bytes.byteLength;
  form.elements.upload.value = digest;
}

for (const form of document.querySelectorAll("form[data-upload]")) {
  const problem = form.querySelector(".problem"), button = form.querySelector("button");
  const say = (text) => { problem.textContent = text; problem.hidden = false; };
  form.addEventListener("submit", async (event) => {
    if (form.elements.upload.value) return;
    event.preventDefault();
    button.disabled = true; // one file at a time
    try {
      await upload(form, say);
      form.querySelector("input[type=file]").disabled = true;
      form.submit();
    } catch (error) {
      say(`The file could not be sent: ${error.message}`);
      button.disabled = false;
    }
  });
}
for (const button of document.querySelectorAll("[data-print]")) {
  button.hidden = false;
  button.addEventListener("click", () => print());
}
for (const log of document.querySelectorAll(".log")) log.scrollTop = log.scrollHeight;
localise(document);
