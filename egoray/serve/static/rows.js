// The answer's list: a line a sentence with a switch, what was found in words, steps between appearances, and its timeline.

import { badge } from "./sentences.js";
import { clock, jump } from "./timeline.js";

const SPANS = 3; // appearances named; the timeline shows them all

const button = (text, label) => {
  const made = Object.assign(document.createElement("button"), { type: "button", className: "icon", textContent: text });
  made.setAttribute("aria-label", label);
  return made;
};

export class Rows {
  /**
   * @param change is called when a sentence is shown or hidden
   * @param go is called with the second to go to
   */
  constructor(list, timeline, { change, go }) {
    Object.assign(this, { list, timeline, change, go, shown: [], rows: [], answer: null });
  }

  /** Begin anew, for another answer or none. */
  reset(answer) {
    this.answer = answer;
    this.list.replaceChildren();
    this.timeline.reset(answer);
    this.shown = answer ? answer.rows.map(() => true) : [];
    this.rows = answer ? answer.rows.map((_, k) => this.#row(k)) : [];
    this.update(false);
  }

  #row(k) {
    const { answer } = this;
    const item = document.createElement("li");
    const line = Object.assign(document.createElement("div"), { className: "line" });
    const text = Object.assign(document.createElement("span"), { className: "text", textContent: answer.rows[k].text });
    const label = document.createElement("label");
    const toggle = Object.assign(document.createElement("input"), { type: "checkbox", checked: true });
    toggle.setAttribute("aria-label", `Show ${answer.rows[k].text}`);
    toggle.addEventListener("change", () => this.toggle(k));
    label.append(toggle, badge(k), text);
    const [before, after] = [button("‹", "Appearance before"), button("›", "Next appearance")];
    before.addEventListener("click", () => this.go(jump(answer, k, this.timeline.stage.time_s, -1)));
    after.addEventListener("click", () => this.go(jump(answer, k, this.timeline.stage.time_s, 1)));
    line.append(label, before, after);
    const says = Object.assign(document.createElement("p"), { className: "says quiet" });
    item.append(line, this.timeline.track(answer, k), says);
    this.list.append(item);
    return { item, toggle, says, jumps: [before, after] };
  }

  toggle(k) {
    if (!this.rows[k]) return;
    this.shown[k] = !this.shown[k];
    this.rows[k].toggle.checked = this.shown[k];
    this.rows[k].item.classList.toggle("off", !this.shown[k]);
    this.change();
  }

  /** Say and draw what is known by now; `running` while more may come. */
  update(running) {
    this.rows.forEach(({ says, jumps }, k) => {
      const seen = this.answer.appearances(k);
      says.textContent = running && !seen.length ? "Looking…" : inWords(seen, this.answer.summary);
      for (const one of jumps) one.hidden = !seen.length;
    });
    this.timeline.paint();
  }
}

function inWords(seen, summary) {
  if (!seen.length) {
    return summary
      ? "Not found in this video. It may never be in view, or other words may fit it better: try its colour, or what it is used for."
      : "Not found in what was looked at.";
  }
  const spans = seen.slice(0, SPANS).map(({ start_s, stop_s }) => `${clock(start_s)} – ${clock(stop_s)}`);
  const more = seen.length > SPANS ? ` and ${seen.length - SPANS} more` : "";
  return `In view ${seen.length === 1 ? "once" : `${seen.length} times`}: ${spans.join(", ")}${more}`;
}
