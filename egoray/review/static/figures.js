// How far reviewers agree, and how fast they are.

import * as api from "./api.js";
import { byId, el, notice } from "./dom.js";

const number = (value, digits = 2) => (value === null ? "–" : value.toFixed(digits));

export async function showFigures() {
  const found = await api.call("/api/agreement").catch((error) => notice(error.message));
  if (!found) return;
  byId("figures-body").replaceChildren(
    table(["Reviewer", "Decided", "Seconds an object", "Planted faults caught"],
      found.reviewers.map((r) => [r.reviewer, r.decided, number(r.seconds, 1), r.planted ? `${r.caught} of ${r.planted}` : "–"])),
    table(["Pair", "Objects", "Cohen’s κ", "Mask IoU"], found.pairs.map((p) => [`${p.a}, ${p.b}`, p.items, number(p.kappa), number(p.mask_iou)])));
  byId("figures").showModal();
}

function table(headings, rows) {
  if (!rows.length) return el("p", { class: "quiet" }, headings[0] === "Pair" ? "No object was decided by two people yet." : "Nothing is decided yet.");
  const cells = (tag, values) => el("tr", {}, ...values.map((value) => el(tag, {}, String(value))));
  return el("table", {}, el("thead", {}, cells("th", headings)), el("tbody", {}, ...rows.map((row) => cells("td", row))));
}
