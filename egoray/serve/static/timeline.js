// Where in the video: a ruler and, for each sentence, when it is in view and how sure the model is. All of them scrub.

import { COLOURS, against } from "./overlay.js";

const NICE_S = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600];

/** 83.25 → "1:23.2". */
export function clock(time_s) {
  const tenths = Math.floor(time_s * 10 + 1e-6);
  return `${Math.floor(tenths / 600)}:${String(Math.floor(tenths / 10) % 60).padStart(2, "0")}.${tenths % 10}`;
}

/** A bar as wide as the video is long; `draw` paints its canvas and `describe` says its position in words. */
class Track {
  constructor(timeline, label, draw, describe, jumps) {
    Object.assign(this, { timeline, draw, describe, jumps });
    this.element = document.createElement("div");
    this.element.className = "track";
    this.element.tabIndex = 0;
    this.element.setAttribute("role", "slider");
    this.element.setAttribute("aria-label", label);
    this.element.setAttribute("aria-valuemin", "0");
    this.canvas = document.createElement("canvas");
    this.head = document.createElement("span");
    this.head.className = "head";
    this.element.append(this.canvas, this.head);
    this.element.addEventListener("pointerdown", (event) => this.#grab(event));
    this.element.addEventListener("pointermove", (event) => this.element.hasPointerCapture(event.pointerId) && this.#scrub(event));
    this.element.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(() => this.paint()).observe(this.element);
  }

  #grab(event) {
    if (event.button) return;
    this.element.setPointerCapture(event.pointerId);
    this.#scrub(event);
  }

  #scrub(event) {
    const { left, width } = this.element.getBoundingClientRect();
    this.timeline.go(((event.clientX - left) / width) * this.timeline.stage.duration_s);
  }

  #key(event) {
    const { stage } = this.timeline;
    const now = stage.time_s;
    const step = (way) => (event.shiftKey ? now + way : this.timeline.next_s(way));
    const to = {
      ArrowRight: () => step(1),
      ArrowUp: () => step(1),
      ArrowLeft: () => step(-1),
      ArrowDown: () => step(-1),
      Home: () => 0,
      End: () => stage.duration_s,
      PageDown: () => this.jumps(now, 1),
      PageUp: () => this.jumps(now, -1),
    }[event.key];
    if (!to || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    this.timeline.go(to());
  }

  move(time_s, duration_s) {
    this.head.style.left = `${duration_s ? Math.min(100, (100 * time_s) / duration_s) : 0}%`;
    this.element.setAttribute("aria-valuemax", duration_s.toFixed(2));
    this.element.setAttribute("aria-valuenow", time_s.toFixed(2));
    this.element.setAttribute("aria-valuetext", this.describe(time_s));
  }

  paint() {
    const { clientWidth: width, clientHeight: height } = this.element;
    const scale = devicePixelRatio || 1;
    Object.assign(this.canvas, { width: Math.round(width * scale), height: Math.round(height * scale) });
    const context = this.canvas.getContext("2d");
    context.scale(scale, scale);
    if (this.timeline.stage.duration_s && width) this.draw(context, width, height, this.timeline.stage.duration_s);
  }
}

export class Timeline {
  /** @param go is called with the second that somebody scrubs or steps to */
  constructor(element, stage, go) {
    Object.assign(this, { element, stage, go, answer: null, tracks: [] });
    this.ruler = new Track(this, "Position in the video", this.#ticks, (time_s) => clock(time_s), (now, by) => now + by);
    this.ruler.element.classList.add("ruler");
    element.append(this.ruler.element);
    stage.addEventListener("time", () => this.move());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.paint());
  }

  get step_s() {
    return this.answer?.start ? this.answer.step_s : 1 / 30;
  }

  /** The time of the next frame that the model looks at, or of the one before (way -1). */
  next_s(way) {
    const start_s = this.answer?.asked.start_s ?? 0;
    const at = (this.stage.time_s - start_s) / this.step_s;
    return start_s + (way > 0 ? Math.floor(at + 0.01) + 1 : Math.ceil(at - 0.01) - 1) * this.step_s;
  }

  /** A track for the k-th sentence of an answer. */
  track(answer, k) {
    const describe = (time_s) => {
      const found = answer.at(k, time_s);
      const sure = found?.score == null ? "" : `, ${Math.round(found.score * 100)} % sure`;
      return `${clock(time_s)}, ${found ? `in view${sure}` : time_s > answer.looked_s ? "not looked at yet" : "not in view"}`;
    };
    const draw = (context, width, height, duration_s) => drawRow(context, width, height, duration_s, answer, k);
    const track = new Track(this, `Timeline of: ${answer.rows[k].text}`, draw, describe, (now, way) => jump(answer, k, now, way));
    this.tracks.push(track);
    return track.element;
  }

  /** Begin anew, for another answer or none. */
  reset(answer) {
    Object.assign(this, { answer, tracks: [] });
    this.paint();
  }

  paint() {
    for (const track of [this.ruler, ...this.tracks]) track.paint();
    this.move();
  }

  move() {
    for (const track of [this.ruler, ...this.tracks]) track.move(this.stage.time_s, this.stage.duration_s);
  }

  #ticks(context, width, height, duration_s) {
    const style = getComputedStyle(this.element);
    const every_s = NICE_S.find((step) => (step / duration_s) * width >= 88) ?? 3600;
    context.fillStyle = style.color;
    context.font = "11px system-ui, sans-serif";
    context.textBaseline = "top";
    for (let k = 0; k * every_s <= duration_s; k++) {
      const x = Math.min(width - 1, Math.round(((k * every_s) / duration_s) * width));
      context.fillRect(x, height - 6, 1, 6);
      const text = every_s < 1 ? clock(k * every_s) : clock(k * every_s).replace(/\..*/, "");
      const wide = context.measureText(text).width;
      context.fillText(text, Math.min(Math.max(0, x - wide / 2), width - wide), 2);
    }
  }
}

/** The start of the next appearance after a time, or of the one before; the time itself where there is none. */
export function jump(answer, k, now, way) {
  const starts = answer.appearances(k).map((seen) => seen.start_s);
  return (way > 0 ? starts.find((start) => start > now + 0.01) : starts.findLast((start) => start < now - 0.01)) ?? now;
}

function drawRow(context, width, height, duration_s, answer, k) {
  const style = getComputedStyle(context.canvas);
  const x = (time_s) => (time_s / duration_s) * width;
  const [start_s] = answer.range_s;
  const ground = style.getPropertyValue("--looked").trim();
  context.fillStyle = ground;
  context.fillRect(x(start_s), 0, x(answer.looked_s) - x(start_s), height);
  const firm = against(COLOURS[k], ground);
  for (const { time_s, score } of answer.rows[k].frames) {
    const left = Math.round(x(time_s));
    const wide = Math.max(1, Math.round(x(time_s + answer.step_s)) - left);
    const tall = Math.max(0.08, score ?? 1) * (height - 8);
    context.globalAlpha = 0.5;
    context.fillStyle = COLOURS[k];
    context.fillRect(left, height - 5 - tall, wide, tall);
    context.globalAlpha = 1;
    context.fillStyle = firm;
    context.fillRect(left, height - 6 - tall, wide, 2);
  }
  context.fillStyle = firm;
  for (const { start_s: from_s, stop_s } of answer.appearances(k)) {
    context.fillRect(x(from_s), height - 5, Math.max(2, x(stop_s) - x(from_s)), 5);
  }
}
