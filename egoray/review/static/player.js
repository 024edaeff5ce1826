// The frame with its mask on a canvas: painting, playing, zooming.

import { AHEAD } from "./item.js";
import { byId, press } from "./dom.js";

const FILL = [230, 159, 0, 105]; // orange of Okabe and Ito
const RIM = [255, 236, 179, 255];
const DARK = [20, 20, 20, 230];
const CLOSE = 3.2; // what the zoom shows, in sides of the box

export class Player {
  constructor(changed) {
    this.canvas = byId("canvas");
    this.context = this.canvas.getContext("2d");
    this.layer = document.createElement("canvas");
    this.changed = changed; // called after the frame changed
    this.overlay = null; // what the tools draw: (context, toScreen) => void
    Object.assign(this, { item: null, frame: 0, playing: false, looping: false, zoomed: false, masked: true, drawn: null });
    new ResizeObserver(() => this.paint()).observe(this.canvas);
  }

  async show(item) {
    this.pause();
    this.item = item;
    await this.seek(item.first);
  }

  async seek(frame) {
    const item = this.item;
    this.frame = Math.max(0, Math.min(item.num_frames - 1, frame));
    const wanted = this.frame;
    const { image, ready } = item.picture(wanted, this.playing ? AHEAD : 2);
    if (!image.ready) await ready.catch(() => null);
    if (item !== this.item || wanted !== this.frame) return;
    this.paint();
    this.changed();
  }

  step(by) {
    this.pause();
    return this.seek(this.frame + by);
  }

  /** The next of the worst frames, from bad to less bad and round again. */
  worst() {
    const at = this.item.worst.indexOf(this.frame);
    this.pause();
    return this.seek(this.item.worst[(at + 1) % this.item.worst.length] ?? this.frame);
  }

  toggle() {
    if (this.playing) return this.pause();
    this.playing = true;
    press(byId("play"), true);
    this.tick();
  }

  pause() {
    this.playing = false;
    press(byId("play"), false);
  }

  async tick() {
    const began = performance.now(), item = this.item;
    await this.seek(this.following());
    const rest = 1000 / item.fps - (performance.now() - began);
    await new Promise((wake) => setTimeout(wake, Math.max(0, rest)));
    if (this.playing && item === this.item) this.tick();
  }

  /** The frame to play next: those in and around appearances, round and round; one appearance alone while looping. */
  following() {
    const { item, frame } = this, [start, stop] = item.appearances[item.appearance(frame)] ?? [];
    if (this.looping && stop !== undefined) return frame + 1 < stop ? frame + 1 : start;
    return item.reel.find((f) => f > frame) ?? item.reel[0] ?? frame;
  }

  view() {
    const { item, frame } = this;
    const whole = { x: 0, y: 0, w: item.width, h: item.height };
    const box = item.boxes[frame];
    if (!this.zoomed || !box) return this.zoomed && this.last?.item === item ? this.last.view : whole;
    const side = Math.max(box[2] - box[0], (box[3] - box[1]) * (item.width / item.height), item.width / 10) * CLOSE;
    const w = Math.min(item.width, side), h = (w * item.height) / item.width;
    const clamp = (centre, size, limit) => Math.max(0, Math.min(limit - size, centre - size / 2));
    const view = { x: clamp((box[0] + box[2]) / 2, w, item.width), y: clamp((box[1] + box[3]) / 2, h, item.height), w, h };
    this.last = { item, view };
    return view;
  }

  paint() {
    if (!this.item) return;
    const { canvas, context, item, frame } = this;
    const scale = window.devicePixelRatio || 1;
    const wide = Math.round(canvas.clientWidth * scale), high = Math.round(canvas.clientHeight * scale);
    if (!wide || !high) return;
    if (canvas.width !== wide || canvas.height !== high) Object.assign(canvas, { width: wide, height: high });
    const view = this.view(), zoom = Math.min(wide / view.w, high / view.h);
    const left = (wide - view.w * zoom) / 2, top = (high - view.h * zoom) / 2;
    this.drawn = { view, zoom, left, top, scale };
    context.clearRect(0, 0, wide, high);
    const held = item.images.get(frame)?.image;
    context.imageSmoothingEnabled = true;
    if (held?.ready) {
      const sx = held.naturalWidth / item.width, sy = held.naturalHeight / item.height;
      context.drawImage(held, view.x * sx, view.y * sy, view.w * sx, view.h * sy, left, top, view.w * zoom, view.h * zoom);
    } else {
      context.fillStyle = "#888";
      context.font = `${14 * scale}px system-ui`;
      context.fillText("This frame cannot be shown; is the clip where it was annotated?", left + 12 * scale, top + 24 * scale);
    }
    context.save();
    context.beginPath();
    context.rect(left, top, view.w * zoom, view.h * zoom);
    context.clip();
    if (this.masked) this.paintMask(view, left, top, zoom);
    const box = item.boxes[frame];
    if (box) {
      context.lineWidth = 1.5 * scale;
      for (const [colour, dash] of [["#000a", []], ["#56b4e9", [6 * scale, 4 * scale]]]) {
        context.strokeStyle = colour;
        context.setLineDash(dash);
        context.strokeRect(left + (box[0] - view.x) * zoom, top + (box[1] - view.y) * zoom, (box[2] - box[0]) * zoom, (box[3] - box[1]) * zoom);
      }
      context.setLineDash([]);
    }
    this.overlay?.(context, (x, y) => [left + (x - view.x) * zoom, top + (y - view.y) * zoom], zoom);
    context.restore();
  }

  paintMask(view, left, top, zoom) {
    const { item, context, layer } = this;
    const mask = this.pending ?? item.mask(this.frame);
    if (!mask) return;
    const { width, height } = item;
    if (layer.width !== width || layer.height !== height) Object.assign(layer, { width, height });
    const brush = layer.getContext("2d"), data = brush.createImageData(width, height), at = (x, y) => mask[y * width + x];
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const edge = (x > 0 && at(x - 1, y) !== at(x, y)) || (x + 1 < width && at(x + 1, y) !== at(x, y)) ||
          (y > 0 && at(x, y - 1) !== at(x, y)) || (y + 1 < height && at(x, y + 1) !== at(x, y));
        const colour = at(x, y) ? (edge ? RIM : FILL) : edge ? DARK : null; // a dark rim around a light one shows on any ground
        if (colour) data.data.set(colour, (y * width + x) * 4);
      }
    }
    brush.putImageData(data, 0, 0);
    context.imageSmoothingEnabled = zoom < 3;
    context.drawImage(layer, view.x, view.y, view.w, view.h, left, top, view.w * zoom, view.h * zoom);
  }

  /** Where on the frame the pointer is, in its pixels. */
  point(event) {
    const { view, zoom, left, top, scale } = this.drawn;
    const at = this.canvas.getBoundingClientRect();
    return [view.x + ((event.clientX - at.left) * scale - left) / zoom, view.y + ((event.clientY - at.top) * scale - top) / zoom];
  }
}
