// The frame with its mask on a canvas: painting, playing, zooming.

import { AHEAD } from "./item.js";
import { byId, press } from "./dom.js";

const FILL = colour(230, 159, 0, 105); // orange of Okabe and Ito
const RIM = colour(255, 236, 179, 255);
const DARK = colour(20, 20, 20, 230);
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
    const { item, context, layer } = this, mask = this.pending ?? item.mask(this.frame);
    if (!mask) return;
    if (mask === this.pending || mask !== this.painted) this.area = paintLayer(layer, mask, item.width, item.height);
    this.painted = mask === this.pending ? null : mask;
    if (!this.area) return;
    const { x, y } = this.area;
    context.imageSmoothingEnabled = zoom < 3;
    context.drawImage(layer, left + (x - view.x) * zoom, top + (y - view.y) * zoom, layer.width * zoom, layer.height * zoom);
  }

  /** Where on the frame the pointer is, in its pixels. */
  point(event) {
    const { view, zoom, left, top, scale } = this.drawn;
    const at = this.canvas.getBoundingClientRect();
    return [view.x + ((event.clientX - at.left) * scale - left) / zoom, view.y + ((event.clientY - at.top) * scale - top) / zoom];
  }
}

function colour(red, green, blue, alpha) {
  return new Uint32Array(new Uint8Array([red, green, blue, alpha]).buffer)[0];
}

/** Paint the mask and its rim, as large as they are; where they lie in the frame, null for an empty mask. */
function paintLayer(layer, mask, width, height) {
  let top = -1, bottom = -1, left = width, right = -1;
  for (let y = 0; y < height; y++) {
    const row = mask.subarray(y * width, (y + 1) * width), first = row.indexOf(1);
    if (first < 0) continue;
    if (top < 0) top = y;
    bottom = y;
    left = Math.min(left, first);
    right = Math.max(right, row.lastIndexOf(1));
  }
  if (top < 0) return null;
  const x0 = Math.max(0, left - 1), y0 = Math.max(0, top - 1), w = Math.min(width, right + 2) - x0, h = Math.min(height, bottom + 2) - y0;
  Object.assign(layer, { width: w, height: h });
  const brush = layer.getContext("2d"), image = brush.createImageData(w, h), pixels = new Uint32Array(image.data.buffer);
  for (let y = y0, n = 0; y < y0 + h; y++) {
    for (let x = x0, at = y * width + x0; x < x0 + w; x++, at++, n++) {
      const here = mask[at];
      const edge = (x > 0 && mask[at - 1] !== here) || (x + 1 < width && mask[at + 1] !== here) ||
        (y > 0 && mask[at - width] !== here) || (y + 1 < height && mask[at + width] !== here);
      if (here) pixels[n] = edge ? RIM : FILL;
      else if (edge) pixels[n] = DARK; // a dark rim around a light one shows on any ground
    }
  }
  brush.putImageData(image, 0, 0);
  return { x: x0, y: y0 };
}
