// Masks as pictures: a wash of the sentence's colour with a firm edge, and the sentence's number beside it.

import { decode } from "./rle.js";

/** Colours that stay apart for colour-blind eyes (Okabe and Ito); a sentence has its number as well. */
export const COLOURS = ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7"];

const WASH = 120; // of 255
const KEPT = 24; // painted masks held ready, the oldest let go first

const channels = (colour) => [1, 3, 5].map((at) => Number.parseInt(colour.slice(at, at + 2), 16));

/** A mask painted on a canvas of its own: {picture, x, y}, or null for an empty mask. */
function paint(rle, colour) {
  const { x, y, width, height, data } = decode(rle);
  if (!width) return null;
  const reach = Math.max(1, Math.round(rle.size[1] / 400));
  const picture = new OffscreenCanvas(width, height);
  const context = picture.getContext("2d");
  const image = context.createImageData(width, height);
  const [red, green, blue] = channels(colour);
  const inside = (column, row) => column >= 0 && row >= 0 && column < width && row < height && data[row * width + column];
  for (let row = 0, at = 0; row < height; row++) {
    for (let column = 0; column < width; column++, at++) {
      if (!data[at]) continue;
      const across = inside(column - reach, row) && inside(column + reach, row);
      const within = across && inside(column, row - reach) && inside(column, row + reach);
      image.data.set([red, green, blue, within ? WASH : 255], at * 4);
    }
  }
  context.putImageData(image, 0, 0);
  return { picture, x, y };
}

const painted = new Map(); // `found` → picture; a found frame has one colour as long as it lives

function picture(found, colour) {
  if (!painted.has(found)) {
    painted.set(found, found.rle ? paint(found.rle, colour) : null);
    if (painted.size > KEPT) painted.delete(painted.keys().next().value);
  }
  return painted.get(found);
}

/** Draw what each shown sentence means at a time onto a context as large as the masks; `unit` is a CSS pixel there. */
export function drawMasks(context, answer, shown, time_s, unit) {
  const places = answer.rows.map((_, k) => (shown[k] ? answer.placed(k, time_s) : null));
  places.forEach((place, k) => place && drawMask(context, place, COLOURS[k]));
  if (answer.rows.length > 1) places.forEach((place, k) => place && drawNumber(context, place, k, unit));
}

function drawMask(context, { found, box_xyxy: [left, top, right, bottom] }, colour) {
  const mask = picture(found, colour);
  if (!mask) return;
  const [x, y, stop_x, stop_y] = found.box_xyxy;
  const [wider, taller] = [(right - left) / (stop_x - x || 1), (bottom - top) / (stop_y - y || 1)];
  const { width, height } = mask.picture;
  context.drawImage(mask.picture, left + (mask.x - x) * wider, top + (mask.y - y) * taller, width * wider, height * taller);
}

function drawNumber(context, { box_xyxy: [left, top] }, k, unit) {
  const side = 18 * unit;
  const { width, height } = context.canvas;
  const x = Math.min(Math.max(left, 0), width - side);
  const y = Math.min(Math.max(top - side - 2 * unit, 0), height - side);
  context.fillStyle = COLOURS[k];
  context.beginPath();
  context.roundRect(x, y, side, side, 4 * unit);
  context.fill();
  context.fillStyle = inkOn(COLOURS[k]);
  context.font = `700 ${12 * unit}px system-ui, sans-serif`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillText(String(k + 1), x + side / 2, y + side / 2 + unit);
}

const luminance = (colour) =>
  channels(colour)
    .map((value) => (value <= 10 ? value / 3294.6 : ((value / 255 + 0.055) / 1.055) ** 2.4))
    .reduce((sum, value, k) => sum + value * [0.2126, 0.7152, 0.0722][k], 0);

/** A colour, darker or lighter as far as it takes to stand out 3 to 1 from a ground. */
export function against(colour, ground) {
  const behind = luminance(ground);
  const end = behind > 0.18 ? 0 : 255;
  for (let share = 0; share < 1; share += 0.05) {
    const mixed = `#${channels(colour).map((value) => Math.round(value + (end - value) * share).toString(16).padStart(2, "0")).join("")}`;
    const [low, high] = [luminance(mixed), behind].sort((a, b) => a - b);
    if ((high + 0.05) / (low + 0.05) >= 3) return mixed;
  }
  return colour;
}

/** Black or white, whichever reads better on a colour. */
export function inkOn(colour) {
  const [red, green, blue] = channels(colour);
  return 0.299 * red + 0.587 * green + 0.114 * blue > 115 ? "#111111" : "#ffffff";
}
