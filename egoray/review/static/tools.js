// Fixing a mask: clicks and boxes that the server turns into masks, a brush, an eraser, and tracking on from here.

import * as api from "./api.js";
import { byId, notice, press } from "./dom.js";
import { encode } from "./rle.js";

export class Tools {
  constructor(player, changed) {
    Object.assign(this, { player, changed, on: false, tool: "click", excluding: false, size: 8, cursor: null, drag: null, clicks: null, busy: 0 });
    player.overlay = (context, toScreen, zoom) => this.on && this.paint(context, toScreen, zoom);
    const canvas = player.canvas;
    canvas.addEventListener("pointerdown", (event) => this.on && this.down(event));
    canvas.addEventListener("pointermove", (event) => this.on && this.move(event));
    canvas.addEventListener("pointerup", (event) => this.on && this.up(event));
    canvas.addEventListener("pointercancel", () => this.cancel());
    canvas.addEventListener("contextmenu", (event) => this.on && event.preventDefault());
    canvas.addEventListener("wheel", (event) => this.on && event.ctrlKey === false && this.resize(event), { passive: true });
    for (const button of document.querySelectorAll("#tools [data-tool]")) button.onclick = () => this.pick(button.dataset.tool);
    byId("beside").onclick = () => this.exclude(!this.excluding);
    byId("clear").onclick = () => this.clear();
    byId("lock").onclick = () => this.lock();
    byId("track-on").onclick = () => this.track(false);
    byId("track-back").onclick = () => this.track(true);
  }

  get item() {
    return this.player.item;
  }

  turn(on) {
    this.on = on;
    this.cancel();
    this.clicks = this.cursor = null;
    byId("tools").hidden = !on;
    press(byId("fix"), on);
    this.player.canvas.classList.toggle("fixing", on);
    if (on) this.player.pause();
    this.player.paint();
  }

  pick(tool) {
    this.tool = tool;
    this.clicks = null;
    for (const button of document.querySelectorAll("#tools [data-tool]")) press(button, button.dataset.tool === tool);
    this.player.paint();
  }

  exclude(on) {
    this.excluding = on;
    press(byId("beside"), on);
  }

  resize(event) {
    if (this.tool !== "brush" && this.tool !== "eraser") return;
    this.size = Math.max(1, Math.min(80, this.size * (event.deltaY < 0 ? 1.15 : 0.87)));
    this.player.paint();
  }

  frameChanged() {
    if (this.clicks?.frame !== this.player.frame) this.clicks = null;
    press(byId("lock"), this.item.locked(this.player.frame));
  }

  down(event) {
    event.preventDefault();
    this.player.canvas.focus();
    this.player.canvas.setPointerCapture(event.pointerId);
    const at = (this.cursor = this.player.point(event));
    const negative = event.button === 2 || event.altKey || this.excluding;
    if (this.tool === "click") return void this.click(at, negative);
    if (this.tool === "box") this.drag = { from: at, to: at };
    else {
      const erase = this.tool === "eraser" || negative;
      this.drag = { erase, last: at };
      this.player.pending = this.item.mask(this.player.frame)?.slice() ?? new Uint8Array(this.item.width * this.item.height);
      this.stroke(at, at, erase);
    }
    this.player.paint();
  }

  move(event) {
    const at = (this.cursor = this.player.point(event));
    if (this.drag && this.tool === "box") this.drag.to = at;
    else if (this.drag) {
      this.stroke(this.drag.last, at, this.drag.erase);
      this.drag.last = at;
    }
    if (this.drag || this.tool === "brush" || this.tool === "eraser") this.player.paint();
  }

  up() {
    const drag = this.drag;
    this.drag = null;
    if (!drag) return;
    if (this.tool === "box") {
      const [x1, x2] = [drag.from[0], drag.to[0]].sort((a, b) => a - b), [y1, y2] = [drag.from[1], drag.to[1]].sort((a, b) => a - b);
      if (x2 - x1 > 2 && y2 - y1 > 2) this.ask({ box: [x1, y1, x2, y2] });
    } else this.write(this.player.pending);
    this.player.pending = null;
    this.player.paint();
  }

  cancel() {
    this.drag = this.player.pending = null;
  }

  /** A click on the object, or beside it; all clicks on this frame count together. */
  click([x, y], negative) {
    const frame = this.player.frame;
    this.clicks ??= { frame, inside: [], outside: [], before: this.item.counts(frame) ?? null };
    (negative ? this.clicks.outside : this.clicks.inside).push([x, y]);
    this.player.paint();
    return this.ask({ inside: this.clicks.inside, outside: this.clicks.outside, before: this.clicks.before });
  }

  async ask(prompt) {
    const { item } = this, frame = this.player.frame;
    await this.working(async () => {
      const { counts } = await api.call(`/api/items/${item.id}/segment`, { frame, ...prompt });
      await this.save(item, [{ kind: "mask", frame, counts }]);
    });
  }

  write(mask) {
    const { item } = this;
    return this.save(item, [{ kind: "mask", frame: this.player.frame, counts: encode(mask, item.height, item.width) }]);
  }

  clear() {
    this.clicks = null;
    return this.write(new Uint8Array(this.item.width * this.item.height));
  }

  lock() {
    const frame = this.player.frame;
    return this.save(this.item, [{ kind: "lock", frame, on: !this.item.locked(frame) }]);
  }

  async track(back) {
    const { item } = this, frame = this.player.frame;
    await this.working(async () => {
      if (!item.locked(frame)) await this.save(item, [{ kind: "lock", frame, on: true }]);
      await item.send("retrack", { frame, back }).catch(() => null);
      this.changed();
    });
  }

  async save(item, changes) {
    const sent = item.edit(changes);
    this.changed();
    await sent.catch(() => null);
    this.changed();
  }

  async working(work) {
    byId("busy").hidden = false;
    this.busy++;
    try {
      await work();
    } catch (error) {
      notice(error instanceof api.Refused ? error.message : "the server cannot be reached; try again when it is back");
    } finally {
      byId("busy").hidden = --this.busy === 0;
    }
  }

  /** A disc from one point to the other. */
  stroke([x1, y1], [x2, y2], erase) {
    const { width, height } = this.item, mask = this.player.pending, r = this.size, steps = Math.ceil(Math.hypot(x2 - x1, y2 - y1) / Math.max(1, r / 3)) || 1;
    for (let n = 0; n <= steps; n++) {
      const cx = x1 + ((x2 - x1) * n) / steps, cy = y1 + ((y2 - y1) * n) / steps;
      for (let y = Math.max(0, Math.floor(cy - r)); y <= Math.min(height - 1, cy + r); y++)
        for (let x = Math.max(0, Math.floor(cx - r)); x <= Math.min(width - 1, cx + r); x++)
          if ((x + 0.5 - cx) ** 2 + (y + 0.5 - cy) ** 2 <= r * r) mask[y * width + x] = erase ? 0 : 1;
    }
  }

  /** Keys while fixing; whether the key was one. */
  key(event) {
    const tools = { 1: "click", 2: "box", 3: "brush", 4: "eraser" }, { item } = this;
    if (event.key in tools) this.pick(tools[event.key]);
    else if (event.key === "0") this.clear();
    else if (event.key === "x" || event.key === "X") this.exclude(!this.excluding);
    else if (event.key === "[" || event.key === "]") this.size = Math.max(1, Math.min(80, this.size * (event.key === "]" ? 1.25 : 0.8)));
    else if (event.key === "Enter" || event.key === "Backspace") this.atCursor(event.key === "Backspace" || this.excluding);
    else if (event.altKey && event.key.startsWith("Arrow")) {
      const by = event.shiftKey ? 16 : 3, box = item.boxes[this.player.frame] ?? [0, 0, item.width, item.height];
      const [x, y] = this.cursor ?? [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2];
      const dx = { ArrowLeft: -by, ArrowRight: by }[event.key] ?? 0, dy = { ArrowUp: -by, ArrowDown: by }[event.key] ?? 0;
      this.cursor = [Math.max(0, Math.min(item.width - 1, x + dx)), Math.max(0, Math.min(item.height - 1, y + dy))];
    } else return false;
    this.player.paint();
    return true;
  }

  /** What the pointer would do, by keyboard at the cross. */
  atCursor(negative) {
    const { item } = this, frame = this.player.frame, box = item.boxes[frame] ?? [0, 0, item.width, item.height];
    const at = (this.cursor ??= [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]);
    if (this.tool === "click") return void this.click(at, negative);
    if (this.tool === "box") {
      if (!this.corner) return void (this.corner = at);
      this.drag = { from: this.corner, to: at };
      this.corner = null;
    } else {
      this.player.pending = item.mask(frame)?.slice() ?? new Uint8Array(item.width * item.height);
      this.drag = {};
      this.stroke(at, at, this.tool === "eraser" || negative);
    }
    this.up();
  }

  paint(context, toScreen, zoom) {
    const ring = (x, y, r, colour) => {
      for (const [line, style] of [[3.5, "#000"], [1.75, colour]]) {
        context.beginPath();
        context.arc(x, y, r, 0, 2 * Math.PI);
        Object.assign(context, { lineWidth: line, strokeStyle: style });
        context.stroke();
      }
    };
    const sign = ([px, py], minus) => {
      const [x, y] = toScreen(px, py);
      ring(x, y, 7, minus ? "#d55e00" : "#56b4e9");
      context.fillStyle = "#fff";
      context.fillRect(x - 4, y - 1, 8, 2);
      if (!minus) context.fillRect(x - 1, y - 4, 2, 8);
    };
    if (this.clicks?.frame === this.player.frame) {
      this.clicks.inside.forEach((point) => sign(point, false));
      this.clicks.outside.forEach((point) => sign(point, true));
    }
    const from = this.tool === "box" ? (this.drag?.from ?? this.corner) : null;
    if (from) {
      const [x1, y1] = toScreen(...from), [x2, y2] = toScreen(...(this.drag?.to ?? this.cursor));
      Object.assign(context, { lineWidth: 2, strokeStyle: "#fff" });
      context.strokeRect(x1, y1, x2 - x1, y2 - y1);
    }
    if (this.cursor) {
      const [x, y] = toScreen(...this.cursor);
      if (this.tool === "brush" || this.tool === "eraser") ring(x, y, this.size * zoom, this.tool === "brush" ? "#56b4e9" : "#d55e00");
      for (const [line, style] of [[3, "#000"], [1, "#fff"]]) {
        Object.assign(context, { lineWidth: line, strokeStyle: style });
        context.beginPath();
        context.moveTo(x - 9, y);
        context.lineTo(x + 9, y);
        context.moveTo(x, y - 9);
        context.lineTo(x, y + 9);
        context.stroke();
      }
    }
  }
}
