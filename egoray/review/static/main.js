// The review page: which object is shown, and what each key does.

import * as api from "./api.js";
import { byId, el, notice, press } from "./dom.js";
import { showFigures } from "./figures.js";
import { Item } from "./item.js";
import { Player } from "./player.js";
import { Queue } from "./queue.js";
import { flushSentences, refreshSentences, showSentences } from "./sentences.js";
import { paintTimeline } from "./timeline.js";
import { Tools } from "./tools.js";

const IDLE_MS = 60_000; // a person who does nothing for so long is not counted as working
const KEYS = [
  ["A", "accept; what you changed is kept"], ["F", "fix: tools on and off"], ["R, then 1 to 9", "reject with a reason"], ["S", "skip"],
  ["U", "undo the last change, else the last verdict"], ["Space", "play, pause"], ["← →", "step a frame; ten with Shift"], ["J", "next worst frame"],
  ["L", "loop this appearance"], ["Z", "zoom to the object"], ["M", "mask on and off"], ["E", "edit the sentences"], ["N", "note"], ["Q", "search the queue"],
  ["K", "frame verified: tracking leaves it alone"], ["T, Shift+T", "track on from here, forward or back"],
  ["1 2 3 4", "fixing: click, box, brush, eraser"], ["click", "fixing: on the object; right button, Alt or X first: beside it"], ["[ ]", "fixing: brush size"],
  ["Alt+arrows", "fixing: move the cross; Shift: faster"], ["Enter, Backspace", "fixing: click at the cross, on or beside the object"],
  ["0", "fixing: no mask in this frame"], ["Esc", "leave a field, or fixing"],
];

let item = null, upcoming = null, queue = null, reasons = {}, active = { seconds: 0, last: 0 };
const player = new Player(() => { tools.frameChanged(); paintTimeline(item, player.frame); });
const tools = new Tools(player, changed);

function changed() {
  if (!item) return;
  tools.frameChanged();
  player.paint();
  paintTimeline(item, player.frame);
  byId("accept").firstElementChild.textContent = item.draft && (Object.keys(item.draft.masks).length || Object.keys(item.draft.texts).length) ? "Accept fix" : "Accept";
}

async function show(next) {
  item = next;
  history.replaceState(null, "", item ? `#item=${item.id}` : location.pathname);
  for (const [id, hidden] of [["stage", !item], ["words", !item], ["done", item]]) byId(id).hidden = Boolean(hidden);
  queue.mark(item?.id);
  if (!item) return;
  tools.turn(false);
  byId("title").textContent = item.title;
  byId("where").textContent = `${item.video_id} / ${item.object_id}`;
  byId("why").replaceChildren(...item.reasons.map((reason) => el("span", { class: "chip" }, reason)),
    ...item.mine.map((d) => el("span", { class: "chip" }, `you: ${[d.verdict, d.reason].filter(Boolean).join(", ")}`)));
  byId("note").value = item.mine.at(-1)?.note ?? "";
  active = { seconds: 0, last: performance.now() };
  const painted = player.show(item);
  showSentences(item, changed);
  changed();
  await painted;
}

/** Lease the next object and fetch what it shows first, so that it is there when it is wanted. */
function prepare() {
  const held = item ? [item.id] : [];
  upcoming = (async () => {
    const { item: id } = await api.call("/api/next", { tab: api.TAB, keep: held, filters: queue.filters });
    if (!id) return null;
    const next = await Item.load(id);
    await next.prefetch().catch(() => null);
    return next;
  })();
  upcoming.catch(() => null);
}

async function advance() {
  const next = await (upcoming ?? (prepare(), upcoming)).catch(async () => { // the server was away: ask again once all is saved
    await api.settled();
    prepare();
    return upcoming;
  });
  await show(next);
}

async function open(id) {
  byId("notice").hidden = true;
  try {
    flushSentences();
    await api.settled();
    await show(await Item.load(id));
    byId("queue").classList.remove("open");
    prepare();
  } catch (error) {
    notice(error.message);
  }
}

async function decide(verdict, reason = "") {
  if (!item || decide.busy) return;
  decide.busy = true;
  byId("notice").hidden = true;
  try {
    flushSentences();
    work();
    performance.mark("verdict");
    const done = item, sent = api.post(done.id, "decide", { verdict, reason, note: byId("note").value, seconds: Math.min(86_400, active.seconds) });
    await advance();
    requestAnimationFrame(() => performance.measure("next item", "verdict"));
    await sent.catch(() => null);
    if (item) prepare();
    queue.refresh();
  } catch {
    notice("the next object cannot be fetched; your verdict is kept and sent when the server is back");
  } finally {
    decide.busy = false;
  }
}

/** Something was not taken: it would have overwritten what came in between. */
function refused({ detail: { item: id, error } }) {
  notice(error.message, error.status === 409 ? { label: "Show it", run: () => open(id) } : null);
}

async function undo() {
  if (!item && decide.busy) return;
  flushSentences();
  await api.settled();
  if (item?.draft.undoable) {
    await item.send("undo-edit").catch(() => null);
    refreshSentences(item);
    return changed();
  }
  try {
    const { item: id } = await api.call("/api/undo", { tab: api.TAB, key: api.newKey() });
    await show(await Item.load(id));
    prepare();
    queue.refresh();
  } catch (error) {
    notice(error.message);
  }
}

function reject() {
  if (item) byId("reasons").showModal();
}

function work() {
  const now = performance.now();
  if (document.visibilityState === "visible") active.seconds += Math.min(now - active.last, IDLE_MS) / 1000;
  active.last = now;
}

const toggle = (name, id) => () => {
  player[name] = !player[name];
  press(byId(id), player[name]);
  player.paint();
};
const loop = toggle("looping", "loop"), zoom = toggle("zoomed", "zoom"), mask = toggle("masked", "mask");
const actions = {
  a: () => decide("accepted"), f: () => item && tools.turn(!tools.on), r: reject, s: () => decide("skipped"), u: undo, " ": () => item && player.toggle(),
  j: () => item && player.worst(), l: loop, z: zoom, m: mask, k: () => item && tools.lock(), t: () => item && tools.track(false),
  e: () => document.querySelector("#sentences textarea")?.focus(), n: () => byId("note").focus(), "?": () => byId("help").showModal(),
  q: () => { byId("queue").classList.add("open"); byId("filter-text").focus(); },
};

function key(event) {
  const typing = event.target.matches("input:not([type=range]), textarea, select");
  if (event.key === "Escape") {
    if (typing) event.target.blur();
    else if (tools.on) tools.turn(false);
    return;
  }
  if (document.querySelector("dialog[open]")) {
    const reason = byId("reasons").open && reasons[event.key];
    if (reason) {
      event.preventDefault();
      byId("reasons").close();
      decide("rejected", event.key);
    }
    return;
  }
  if (typing || event.ctrlKey || event.metaKey) return;
  const pressing = event.target.matches("button, summary, a") && (event.key === " " || event.key === "Enter");
  if (pressing) return;
  let used = true;
  if (item && tools.on && tools.key(event)) used = true;
  else if (event.altKey) used = false;
  else if (event.key === "ArrowLeft" || event.key === "ArrowRight") item && player.step((event.key === "ArrowLeft" ? -1 : 1) * (event.shiftKey ? 10 : 1));
  else if (event.key === "T" && event.shiftKey) item && tools.track(true);
  else if (event.repeat) used = false;
  else if (actions[event.key.toLowerCase()]) actions[event.key.toLowerCase()]();
  else used = false;
  if (used) event.preventDefault();
}

function wire() {
  const buttons = { accept: actions.a, fix: actions.f, reject, skip: actions.s, undo, play: actions[" "], worst: actions.j, loop, zoom, mask };
  for (const [id, run] of Object.entries(buttons)) byId(id).onclick = run;
  byId("show-help").onclick = actions["?"];
  byId("show-figures").onclick = showFigures;
  byId("show-queue").onclick = () => byId("queue").classList.toggle("open");
  byId("seek").oninput = () => { player.pause(); player.seek(Number(byId("seek").value)); };
  document.querySelector("#help dl").replaceChildren(...KEYS.flatMap(([k, what]) => [el("dt", {}, el("kbd", {}, k)), el("dd", {}, what)]));
  document.querySelector("#reasons ol").replaceChildren(...Object.entries(reasons).map(([digit, words]) =>
    el("li", {}, el("button", { type: "button", onclick: () => { byId("reasons").close(); decide("rejected", digit); } }, el("kbd", {}, digit), ` ${words}`))));
  document.addEventListener("keydown", key);
  for (const kind of ["keydown", "pointerdown", "pointermove"]) document.addEventListener(kind, work, { passive: true });
  document.addEventListener("visibilitychange", () => { active.last = performance.now(); flushSentences(); });
  window.addEventListener("pagehide", () => { flushSentences(); api.leave(); });
  window.addEventListener("refused", refused);
  new ResizeObserver(changed).observe(byId("track"));
}

async function start() {
  let found;
  try {
    found = await api.session();
  } catch (error) {
    return notice(error.message);
  }
  reasons = found.reasons;
  byId("reviewer").textContent = found.reviewer;
  queue = new Queue(found, open, prepare);
  wire();
  await api.adopt();
  setInterval(() => api.call("/api/renew", { tab: api.TAB }).catch(() => null), (found.lease_s * 1000) / 4);
  const wanted = new URLSearchParams(location.hash.slice(1)).get("item");
  await queue.refresh();
  try {
    if (wanted) await show(await Item.load(wanted));
    else await advance();
  } catch (error) {
    notice(error.message);
    await advance();
  }
  if (item) prepare();
}

start();
