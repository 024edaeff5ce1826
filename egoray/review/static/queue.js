// The list of objects, hardest first, with its filters, and how far the review is.

import * as api from "./api.js";
import { byId, el, notice } from "./dom.js";

const LIMIT = 1000;
const PAUSE_MS = 200;

export class Queue {
  constructor({ statuses, reviewer }, open, filtered) {
    Object.assign(this, { reviewer, open, current: null, timer: 0, turn: 0 });
    options("filter-status", "Any status", statuses);
    for (const name of ["text", "status", "clip", "reviewer"]) {
      byId(`filter-${name}`).addEventListener("input", () => {
        clearTimeout(this.timer);
        this.timer = setTimeout(() => this.refresh().then(filtered), PAUSE_MS);
      });
    }
  }

  /** What `next` obeys as well. */
  get filters() {
    return { text: byId("filter-text").value.trim(), status: byId("filter-status").value, clip: byId("filter-clip").value };
  }

  async refresh() {
    const turn = ++this.turn;
    const query = new URLSearchParams({ ...this.filters, reviewer: byId("filter-reviewer").value, limit: LIMIT });
    const found = await api.call(`/api/items?${query}`).catch(() => null);
    if (!found || turn !== this.turn) return;
    if (found.problem) notice(`your verdicts are safe, but their tables cannot be written: ${found.problem}`);
    options("filter-clip", "Any clip", found.clips);
    options("filter-reviewer", "Any reviewer", found.reviewers);
    const shown = found.total > found.rows.length ? `the hardest ${found.rows.length} of ${found.total}` : `${found.total}`;
    byId("queue-count").textContent = `${shown} object${found.total === 1 ? "" : "s"}, hardest first`;
    byId("rows").replaceChildren(...found.rows.map((row) => this.row(row)));
    this.mark(this.current);
    const all = Object.values(found.counts).reduce((a, b) => a + b, 0), left = found.counts.open + found.counts.skipped + found.counts.disputed;
    byId("progress-bar").style.width = `${all ? (100 * (all - left)) / all : 0}%`;
    byId("progress").setAttribute("aria-valuemax", all);
    byId("progress").setAttribute("aria-valuenow", all - left);
    byId("progress-text").textContent = `${all - left} of ${all}${found.second_look ? `, ${found.second_look} for a second look` : ""}`;
  }

  row(row) {
    const state = row.status === "open" ? (row.held_by && row.held_by !== this.reviewer ? `with ${row.held_by}` : "") : row.status;
    const bar = el("i");
    bar.style.width = `${Math.round(100 * row.hardness)}%`;
    return el("li", {}, el("button", { type: "button", "data-item": row.id, onclick: () => this.open(row.id), title: row.reasons.join(", ") },
      el("b", {}, row.title), el("span", { class: `state ${row.status}` }, state),
      el("small", {}, `${short(row.video_id)} / ${row.object_id}`), el("span"),
      el("span", { class: "hard", "aria-label": `${Math.round(100 * row.hardness)} % hard` }, bar)));
  }

  mark(id) {
    this.current = id;
    for (const button of byId("rows").querySelectorAll("button")) {
      const here = button.dataset.item === id;
      button.setAttribute("aria-current", String(here));
      if (here) button.scrollIntoView({ block: "nearest" });
    }
  }
}

const short = (id) => (id.length > 16 ? `${id.slice(0, 8)}…` : id);

function options(id, any, values) {
  const select = byId(id), chosen = select.value;
  if (select.options.length === values.length + 1 && values.every((value, n) => select.options[n + 1].value === value)) return;
  select.replaceChildren(el("option", { value: "" }, any), ...values.map((value) => el("option", { value }, value)));
  select.value = values.includes(chosen) ? chosen : "";
}
