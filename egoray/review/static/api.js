// Talking to the server. What a person did goes through an outbox in this browser's storage, so that neither a closed tab nor a
// stopped server loses it: it stays there until the server has confirmed it, and its key makes it count once.

import { byId } from "./dom.js";

export const TAB = newKey();
const OUTBOX = "egoray-review-outbox-";
const WAITS_MS = [300, 600, 1200, 2500, 5000];
const revisions = new Map(); // item → the last known state of this person's draft
let csrf = "";
let pending = [];
let sending = false;

export class Refused extends Error {
  constructor(status, code, message) {
    super(message);
    Object.assign(this, { status, code });
  }
}

export function newKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, "0")).join("");
}

/** GET, or POST with a body; the answer's JSON. Throws `Refused`, or TypeError while the server is away. */
export async function call(path, body) {
  for (let attempt = 0; ; attempt++) {
    const options = body === undefined ? {} : {
      method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json", "X-CSRF-Token": csrf },
    };
    const response = await fetch(path, options);
    const answer = await response.json().catch(() => ({}));
    if (response.ok) return answer;
    const { code = "server", message = `the server answered ${response.status}` } = answer.error ?? {};
    if (code === "csrf" && attempt === 0) await session(); // the server was started anew
    else throw new Refused(response.status, code, message);
  }
}

export async function session() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token) {
    history.replaceState(null, "", location.pathname);
    await fetch("/api/login", { method: "POST", body: JSON.stringify({ token }), headers: { "Content-Type": "application/json" } });
  }
  const found = await call("/api/session");
  csrf = found.csrf;
  return found;
}

export function knowRevision(item, revision) {
  revisions.set(item, revision);
}

/** Do it once, as soon as the server can be reached; a promise of the answer. */
export function post(item, action, body) {
  const entry = { item, action, body: { key: newKey(), ...body } };
  const done = new Promise((resolve, reject) => Object.assign(entry, { resolve, reject }));
  done.catch(() => null); // "refused" tells the person
  pending.push(entry);
  keep();
  send();
  return done;
}

/** Whether something about the item (or anything) is not confirmed yet. */
export function waiting(item) {
  return pending.some((entry) => item === undefined || entry.item === item);
}

/** When nothing waits any more. */
export async function settled() {
  while (pending.length) await new Promise((wake) => setTimeout(wake, 15));
}

async function send() {
  if (sending) return;
  sending = true;
  for (let failures = 0; pending.length; ) {
    const entry = pending[0];
    try {
      if (!revisions.has(entry.item)) { // left by a closed tab, whose hold on the item this one takes over
        const { draft } = await call(`/api/items/${entry.item}/open`, { tab: TAB });
        revisions.set(entry.item, draft.revision);
      }
      const answer = await call(`/api/items/${entry.item}/${entry.action}`, { ...entry.body, tab: TAB, revision: revisions.get(entry.item) });
      if (answer.draft) revisions.set(entry.item, answer.draft.revision);
      forget(entry);
      entry.resolve?.(answer);
      failures = 0;
    } catch (error) {
      if (error instanceof Refused && error.status < 500) {
        forget(entry);
        entry.reject?.(error);
        window.dispatchEvent(new CustomEvent("refused", { detail: { item: entry.item, error } }));
      } else {
        show(`not saved yet: ${pending.length} waiting`, true);
        await new Promise((wake) => setTimeout(wake, WAITS_MS[Math.min(failures++, WAITS_MS.length - 1)]));
      }
    }
  }
  sending = false;
  show("saved", false);
}

function forget(entry) {
  pending = pending.filter((other) => other !== entry);
  keep();
}

function keep() {
  const stored = pending.map(({ item, action, body }) => ({ item, action, body }));
  if (stored.length) localStorage.setItem(OUTBOX + TAB, JSON.stringify(stored));
  else localStorage.removeItem(OUTBOX + TAB);
  if (stored.length && !byId("saved").classList.contains("waiting")) show("saving …", false);
}

function show(words, waiting) {
  byId("saved").textContent = words;
  byId("saved").classList.toggle("waiting", waiting);
}

/** Take over what closed tabs left behind. A tab holds a lock named after it for as long as it lives. */
export async function adopt() {
  navigator.locks?.request(OUTBOX + TAB, () => new Promise(() => {}));
  for (const name of Object.keys(localStorage).filter((key) => key.startsWith(OUTBOX) && key !== OUTBOX + TAB)) {
    const take = () => {
      const left = JSON.parse(localStorage.getItem(name) ?? "[]");
      pending.push(...left);
      keep();
      localStorage.removeItem(name);
    };
    if (navigator.locks) await navigator.locks.request(name, { ifAvailable: true }, async (lock) => lock && take());
    else take();
  }
  if (pending.length) {
    send();
    await settled();
  }
}

/** The tab goes: others may have its items. */
export function leave() {
  fetch("/api/release", {
    method: "POST", keepalive: true, body: JSON.stringify({ tab: TAB }), headers: { "Content-Type": "application/json", "X-CSRF-Token": csrf },
  });
}
