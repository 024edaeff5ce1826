// The video and the masks over it. Where the browser cannot play a file, a clock of its own runs and the masks show on a
// plain ground.

import { drawMasks } from "./overlay.js";

const INSIDE_S = 0.001; // a seek lands this far inside a frame, since its time stamp was rounded

/** Dispatches `time` (the position moved), `state` (play, pause, end) and `ready` (a file opened, or cannot be played). */
export class Stage extends EventTarget {
  constructor(video, canvas) {
    super();
    Object.assign(this, { video, canvas, answer: null, shown: [], playable: true, opened: false });
    this.drawn_s = 0; // time of the frame on the screen, which is behind the clock's while a video plays
    this.clock = null; // {from_s, since} while the page's own clock runs
    this.virtual_s = 0;
    for (const name of ["play", "pause", "ended"]) video.addEventListener(name, () => this.#say("state"));
    video.addEventListener("loadedmetadata", () => this.#open(video.videoWidth > 0));
    video.addEventListener("error", () => video.getAttribute("src") && this.#open(false));
    const exact = Boolean(video.requestVideoFrameCallback); // else the clock has to do
    for (const name of ["timeupdate", "seeked"]) video.addEventListener(name, () => this.#moved(exact ? this.drawn_s : video.currentTime));
    if (exact) this.#watch();
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  #say(name) {
    this.dispatchEvent(new Event(name));
  }

  #watch() {
    this.video.requestVideoFrameCallback((_, { mediaTime }) => {
      this.#moved(mediaTime);
      this.#watch();
    });
  }

  #moved(time_s) {
    if (!this.playable) return;
    this.drawn_s = time_s;
    this.draw();
    this.#say("time");
  }

  #open(playable) {
    this.playable = playable;
    this.opened = true;
    this.virtual_s = 0;
    if (!playable) this.video.removeAttribute("src");
    this.draw();
    this.#say("ready");
    this.#say("time");
  }

  load(url) {
    this.pause();
    this.opened = false;
    this.playable = true;
    this.drawn_s = this.virtual_s = 0;
    this.video.src = url;
    this.draw();
  }

  /** Show an answer's masks; `shown` has one boolean a sentence, and is read anew at each drawing. */
  show(answer, shown) {
    Object.assign(this, { answer, shown });
    this.draw();
  }

  get time_s() {
    return this.playable ? Math.max(0, this.video.currentTime - INSIDE_S) : this.virtual_s;
  }

  get duration_s() {
    if (this.playable && Number.isFinite(this.video.duration)) return this.video.duration;
    return this.answer?.range_s[1] ?? 0;
  }

  get paused() {
    return this.playable ? this.video.paused : !this.clock;
  }

  /** [height, width] of a frame. */
  get size_hw() {
    return this.answer?.start?.size_hw ?? [this.video.videoHeight || 360, this.video.videoWidth || 640];
  }

  play() {
    if (!this.opened) return;
    if (this.time_s >= this.duration_s - 0.01) this.seek(0);
    if (this.playable) this.video.play().catch(() => {});
    else if (!this.clock && this.duration_s) {
      this.clock = { from_s: this.virtual_s, since: performance.now() };
      this.#tick();
    }
    this.#say("state");
  }

  pause() {
    this.video.pause();
    this.clock = null;
    this.#say("state");
  }

  seek(time_s) {
    const to_s = Math.min(Math.max(0, time_s), this.duration_s);
    if (this.playable) {
      this.video.currentTime = Math.min(to_s + INSIDE_S, Math.max(0, this.duration_s - INSIDE_S));
    } else {
      this.virtual_s = to_s;
      if (this.clock) this.clock = { from_s: to_s, since: performance.now() };
      this.draw();
    }
    this.#say("time");
  }

  #tick() {
    requestAnimationFrame(() => {
      if (!this.clock) return;
      this.virtual_s = Math.min(this.clock.from_s + (performance.now() - this.clock.since) / 1000, this.duration_s);
      this.draw();
      this.#say("time");
      if (this.virtual_s >= this.duration_s) this.pause();
      else this.#tick();
    });
  }

  draw() {
    const [height, width] = this.size_hw;
    const { canvas } = this;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, width, height);
    const unit = Math.max(width / (canvas.clientWidth || width), height / (canvas.clientHeight || height));
    if (this.answer) drawMasks(context, this.answer, this.shown, this.playable ? this.drawn_s : this.virtual_s, unit);
  }
}
