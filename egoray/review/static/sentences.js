// The object's sentences: edited in place, checked while they are written, set against what was generated.

import * as api from "./api.js";
import { byId, el } from "./dom.js";

const PAUSE_MS = 350;
let cards = [];

export function showSentences(item, changed) {
  cards = item.sentences.map((sentence) => card(item, sentence, changed));
  byId("sentences").replaceChildren(...cards.map((c) => c.node));
  if (!cards.length) byId("sentences").append(el("p", { class: "quiet" }, "It has none yet; egoray express writes them."));
  const figures = [{ object_id: item.object_id, title: item.title }, ...item.lookalikes].map((other, n) =>
    el("figure", { class: n ? "" : "meant", "data-object": other.object_id },
      el("img", { src: `/api/items/${item.id}/objects/${encodeURIComponent(other.object_id)}.jpg`, alt: other.title || `object ${other.object_id}`, loading: "lazy" }),
      el("figcaption", {}, n ? other.title || `object ${other.object_id}` : `this: ${other.title}`)));
  byId("portraits").replaceChildren(...figures);
  cards.forEach((c) => c.check());
}

/** Hand over what is typed but not yet sent. */
export function flushSentences() {
  cards.forEach((c) => c.save());
}

/** The sentences again, after an undo. */
export function refreshSentences(item) {
  cards.forEach((c) => c.refresh(item));
}

function card(item, sentence, changed) {
  const area = el("textarea", { rows: 1, value: item.draft.texts[sentence.id] ?? sentence.text, "aria-label": `Sentence, ${sentence.kind || "any kind"}`, spellcheck: true, maxLength: 1000 });
  const faults = el("ul", { role: "status" }), diff = el("p", { class: "diff" }), drop = el("button", { type: "button" }), restore = el("button", { type: "button" }, "Restore");
  const about = [sentence.kind, sentence.model || sentence.source].filter(Boolean).join(" · ");
  const node = el("div", { class: "sentence" }, area, diff, faults,
    el("div", { class: "foot" }, el("span", { class: "quiet" }, about), sentence.doubt ? el("span", { class: "chip" }, sentence.doubt) : null, drop, restore));
  let timer = 0, asked = 0, saved = area.value;
  const current = () => item.draft.texts[sentence.id] ?? sentence.text;
  const show = () => {
    const dropped = current() === "";
    node.classList.toggle("dropped", dropped);
    area.readOnly = dropped;
    if (dropped) area.value = sentence.text;
    drop.hidden = dropped;
    drop.textContent = "Drop";
    restore.hidden = item.draft.texts[sentence.id] === undefined && area.value === sentence.text;
    diff.replaceChildren(...(dropped || area.value === sentence.text ? [] : difference(sentence.text, area.value)));
    fit();
  };
  const fit = () => {
    area.style.height = "auto";
    area.style.height = `${area.scrollHeight}px`;
  };
  const put = (text) => {
    saved = text ?? sentence.text;
    item.edit([{ kind: "text", expression_id: sentence.id, text }]).then(changed, () => null);
    changed();
    show();
  };
  const save = () => {
    clearTimeout(timer);
    const text = area.value.split(/\s+/).filter(Boolean).join(" ");
    if (area.readOnly || text === saved || !text) return;
    put(text === sentence.text ? null : text);
  };
  const check = async () => {
    const turn = ++asked;
    const found = await api.call(`/api/items/${item.id}/check`, { expression_id: sentence.id, text: area.readOnly ? "" : area.value }).catch(() => null);
    if (turn !== asked || !found) return;
    const also = found.also.map((o) => `it may mean the ${o.title} (object ${o.object_id}) too`);
    faults.replaceChildren(...[...found.problems, ...also].map((words) => el("li", {}, words)));
    node.also = found.also.map((o) => o.object_id);
    const meant = new Set(cards.flatMap((c) => c.node.also ?? []));
    for (const figure of document.querySelectorAll("#portraits figure")) figure.classList.toggle("also", meant.has(figure.dataset.object));
  };
  area.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => { save(); check(); }, PAUSE_MS);
    show();
  });
  area.addEventListener("blur", save);
  drop.onclick = () => { put(""); check(); };
  restore.onclick = () => {
    area.readOnly = false;
    area.value = sentence.text;
    put(null);
    check();
  };
  requestAnimationFrame(show);
  const refresh = () => {
    area.readOnly = false;
    area.value = saved = current();
    show();
    check();
  };
  return { node, save, check, refresh };
}

/** Words that went and words that came, in order: the longest common subsequence stays. */
function difference(before, after) {
  const a = before.split(" "), b = after.split(" ");
  const common = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--) common[i][j] = a[i] === b[j] ? common[i + 1][j + 1] + 1 : Math.max(common[i + 1][j], common[i][j + 1]);
  const parts = [];
  for (let i = 0, j = 0; i < a.length || j < b.length; ) {
    if (i < a.length && j < b.length && a[i] === b[j]) parts.push(`${a[i++]} `), j++;
    else if (j >= b.length || (i < a.length && common[i + 1][j] >= common[i][j + 1])) parts.push(el("del", {}, a[i++]), " ");
    else parts.push(el("ins", {}, b[j++]), " ");
  }
  return parts;
}
