// Where in the clip the object appears, how doubtful each frame is, and which frames a person has changed or verified.

import { byId } from "./dom.js";

export function paintTimeline(item, frame) {
  const canvas = byId("track"), scale = window.devicePixelRatio || 1;
  const width = (canvas.width = Math.round(canvas.clientWidth * scale)), height = (canvas.height = Math.round(canvas.clientHeight * scale));
  const context = canvas.getContext("2d"), style = getComputedStyle(document.documentElement), colour = (name) => style.getPropertyValue(name).trim();
  const x = (f) => (f / item.num_frames) * width, one = Math.max(1, width / item.num_frames);
  context.fillStyle = colour("--line");
  context.fillRect(0, height * 0.86, width, height * 0.1);
  for (const [start, stop] of item.appearances) {
    context.fillStyle = colour("--line");
    context.fillRect(x(start), 0, x(stop) - x(start), height * 0.8);
    context.fillStyle = colour("--accent");
    context.fillRect(x(start), height * 0.86, Math.max(2, x(stop) - x(start)), height * 0.1);
  }
  context.fillStyle = colour("--mark");
  for (const [f, doubt] of Object.entries(item.doubts)) context.fillRect(x(+f), height * 0.8 * (1 - doubt), one, height * 0.8 * doubt);
  context.fillStyle = colour("--good");
  for (const f of Object.keys(item.draft.masks)) context.fillRect(x(+f), 0, Math.max(2 * scale, one), height * 0.16);
  context.fillStyle = colour("--ink");
  for (const f of item.draft.locks) context.fillRect(x(f), height * 0.18, Math.max(2 * scale, one), height * 0.12);
  const seek = byId("seek"), place = item.appearance(frame);
  seek.max = item.num_frames - 1;
  seek.value = frame;
  const words = [`${(frame / item.fps).toFixed(1)} s`, `frame ${frame} of ${item.num_frames}`];
  words.push(place < 0 ? "not in view" : `appearance ${place + 1} of ${item.appearances.length}`);
  if (item.scores[frame] !== undefined) words.push(`score ${item.scores[frame].toFixed(2)}`);
  if (item.draft.masks[frame] !== undefined) words.push("changed");
  if (item.locked(frame)) words.push("verified");
  if (!item.counts(frame) && item.boxes[frame]) words.push("no mask");
  seek.setAttribute("aria-valuetext", words.join(", "));
  byId("now").textContent = words.join(" · ");
}
