// What the model has said so far: a streamed answer as it grows, and what the page and the downloads read from it.

const ROUNDING_S = 0.002; // time stamps come rounded to a tenth of a millisecond, and a browser's to a microsecond

/** One sentence, and the frames that show what it means. */
class Row {
  constructor(text) {
    this.text = text;
    this.frames = []; // {frame, time_s, rle, box_xyxy, score}, by time
    this.stated = null; // the appearances of the summary, once it is there
  }

  add(found) {
    let at = this.frames.length;
    while (at && this.frames[at - 1].time_s > found.time_s) at--;
    this.frames.splice(at, 0, found);
  }

  /** The index of the last frame at or before a time; -1 before the first. */
  before(time_s) {
    let [low, high] = [0, this.frames.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.frames[middle].time_s <= time_s + ROUNDING_S) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }
}

export class Answer {
  /** @param {{start_s: number, stop_s: number | null}} asked the part of the video that the question is about */
  constructor(texts, asked) {
    this.rows = texts.map((text) => new Row(text));
    this.asked = asked;
    this.start = null; // the first event: model, num_frames, fps, size_hw
    this.progress = { done: 0, total: 0 };
    this.latest_s = null; // the time of the newest frame
    this.summary = null; // the last event
  }

  /** Take one event of the stream; events of other kinds are for later versions of the page. */
  take(event) {
    if (event.event === "start") this.start = event;
    else if (event.event === "progress") {
      this.progress = event;
      const whole = event.total === this.start?.num_frames; // one pass for all sentences, so progress is a place in the video
      if (whole && event.done) this.latest_s = this.asked.start_s + (event.done - 1) * this.step_s;
    } else if (event.event === "frame" && this.rows[event.text_index]) {
      const { frame, time_s, rle, box_xyxy, score } = event;
      this.rows[event.text_index].add({ frame, time_s, rle, box_xyxy, score });
      this.latest_s = time_s;
    } else if (event.event === "done") {
      this.summary = event;
      event.results.forEach((result, k) => this.rows[k] && (this.rows[k].stated = result.appearances));
    }
  }

  /** Seconds from one frame that the model looks at to the next. */
  get step_s() {
    return 1 / (this.start?.fps || 30);
  }

  /** [first, last] second that the question is about. */
  get range_s() {
    const { start_s, stop_s } = this.asked;
    return [start_s, stop_s ?? start_s + (this.start?.num_frames ?? 0) * this.step_s];
  }

  /** Up to which second the model has looked. */
  get looked_s() {
    const [start_s, stop_s] = this.range_s;
    const { done, total } = this.progress;
    const share = this.summary ? 1 : total ? done / total : 0;
    const found = this.rows.map((row) => (row.frames.length ? row.frames.at(-1).time_s + this.step_s : start_s));
    return Math.max(start_s + share * (stop_s - start_s), ...found);
  }

  /** What a sentence's object looks like at a time, or null where it is not in view. */
  at(k, time_s) {
    const row = this.rows[k];
    const found = row.frames[row.before(time_s)];
    return found && time_s < found.time_s + this.step_s - Math.min(ROUNDING_S, this.step_s / 4) ? found : null;
  }

  /**
   * Where a sentence's object is drawn at a time, or null: {found, box_xyxy}. In a frame that the model looked at that is
   * what it said; between two of them the nearer one, moved to where its box has come on the straight way to the other's.
   */
  placed(k, time_s) {
    const found = this.at(k, time_s);
    if (!found) return null;
    const { frames } = this.rows[k];
    const next = frames[this.rows[k].before(time_s) + 1];
    const passed_s = time_s - found.time_s;
    if (passed_s <= ROUNDING_S || !next || next.time_s - found.time_s > 1.5 * this.step_s) return { found, box_xyxy: found.box_xyxy };
    const share = passed_s / (next.time_s - found.time_s);
    const box_xyxy = found.box_xyxy.map((value, side) => value + share * (next.box_xyxy[side] - value));
    return { found: share < 0.5 ? found : next, box_xyxy };
  }

  /** When a sentence's object is in view: [{start_s, stop_s}], by the summary where there is one. */
  appearances(k) {
    const row = this.rows[k];
    if (row.stated) return row.stated;
    const runs = [];
    for (const { time_s } of row.frames) {
      const run = runs.at(-1);
      const stop_s = time_s + this.step_s;
      if (run && time_s - run.stop_s < this.step_s / 2) run.stop_s = stop_s;
      else runs.push({ start_s: time_s, stop_s });
    }
    return runs;
  }

  /** The answer as `POST /v1/ground` gives it when it does not stream; `complete` says whether all of it arrived. */
  toJSON() {
    const { model = null } = this.summary ?? this.start ?? {};
    const results = this.rows.map((row, k) => ({ text: row.text, frames: row.frames, appearances: this.appearances(k) }));
    const { event: _, ...rest } = this.summary ?? {};
    return { ...rest, model: model ?? this.start?.model ?? null, complete: Boolean(this.summary), results };
  }
}
