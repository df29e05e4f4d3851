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
for (const log of document.querySelectorAll(".log")) log.scrollTop = log.scrollHeight;
localise(document);
