// Downloads: the answer as JSON, a frame as PNG, the whole overlay as a film.

import { drawMasks } from "./overlay.js";

const KINDS = ["video/webm;codecs=vp9", "video/webm;codecs=vp8", "video/webm", "video/mp4"];
const FRAMES_PER_S = 30;

/** What this browser can record a canvas as, or undefined. */
export const filmKind = () => globalThis.MediaRecorder && KINDS.find((kind) => MediaRecorder.isTypeSupported(kind));

export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

export const asJSON = (answer) => new Blob([`${JSON.stringify(answer, null, 1)}\n`], { type: "application/json" });

function compose(canvas, video, { answer, shown }, time_s) {
  const context = canvas.getContext("2d");
  context.fillStyle = "#151515";
  context.fillRect(0, 0, canvas.width, canvas.height);
  if (video) context.drawImage(video, 0, 0, canvas.width, canvas.height);
  drawMasks(context, answer, shown, time_s, Math.max(1, canvas.width / 800));
}

function canvasFor(stage) {
  const [height, width] = stage.size_hw;
  return Object.assign(document.createElement("canvas"), { width, height });
}

/** The frame on the stage with the shown masks, as large as the video, as a PNG. */
export function asPicture(stage) {
  const canvas = canvasFor(stage);
  compose(canvas, stage.playable ? stage.video : null, stage, stage.playable ? stage.drawn_s : stage.virtual_s);
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

/**
 * The asked part of the video with the shown masks, recorded while it plays beside the stage, as fast as it is long.
 *
 * @param {(share: number) => void} progress
 * @returns {Promise<Blob>} rejects with an AbortError when the signal fires
 */
export async function asFilm(stage, progress, signal) {
  const what = { answer: stage.answer, shown: stage.shown }; // the stage may show another answer before this is done
  const [start_s, last_s] = what.answer.range_s;
  const stop_s = Math.min(last_s, stage.duration_s);
  const canvas = canvasFor(stage);
  const video = stage.playable ? await openAt(stage.video.src, start_s) : null;
  const recorder = new MediaRecorder(canvas.captureStream(FRAMES_PER_S), { mimeType: filmKind(), videoBitsPerSecond: 8_000_000 });
  const parts = [];
  recorder.addEventListener("dataavailable", ({ data }) => parts.push(data));
  const stopped = new Promise((resolve) => recorder.addEventListener("stop", resolve, { once: true }));
  compose(canvas, video, what, start_s);
  recorder.start();
  try {
    for await (const time_s of frameTimes(video, start_s, signal)) {
      if (time_s >= stop_s - 0.5 / FRAMES_PER_S) break;
      compose(canvas, video, what, time_s);
      progress((time_s - start_s) / (stop_s - start_s));
    }
  } finally {
    video?.pause();
    recorder.stop();
    await stopped;
  }
  return new Blob(parts, { type: recorder.mimeType });
}

async function openAt(url, time_s) {
  const video = Object.assign(document.createElement("video"), { muted: true, playsInline: true, preload: "auto", src: url });
  await new Promise((resolve, reject) => {
    video.addEventListener("seeked", resolve, { once: true });
    video.addEventListener("error", () => reject(new Error("the video cannot be played again")), { once: true });
    video.currentTime = time_s + 0.001;
  });
  return video;
}

/** Play, and yield the time of each frame while it is the one to draw; without a video, of a clock. */
async function* frameTimes(video, start_s, signal) {
  const began = performance.now();
  await video?.play();
  const aborted = new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason), { once: true }));
  const ended = new Promise((resolve) => video?.addEventListener("ended", resolve, { once: true }));
  const next = (told) => {
    if (video?.requestVideoFrameCallback) video.requestVideoFrameCallback((_, { mediaTime }) => told(mediaTime));
    else setTimeout(() => told(video ? video.currentTime : start_s + (performance.now() - began) / 1000), 1000 / FRAMES_PER_S);
  };
  for (;;) {
    const time_s = await Promise.race([new Promise(next), ended, aborted]);
    if (video?.ended) return;
    yield time_s;
  }
}
