// An item as the page holds it: what was generated, and over it what this person changed.

import * as api from "./api.js";
import { decode } from "./rle.js";

export const AHEAD = 12; // frames fetched before they are wanted
const AROUND = 4; // frames played before and after an appearance

export class Item {
  constructor(data) {
    Object.assign(this, data);
    [this.height, this.width] = data.size;
    const near = this.appearances.flatMap(([start, stop]) => Array.from({ length: stop - start + 2 * AROUND }, (_, n) => start - AROUND + n));
    this.reel = [...new Set(near)].filter((f) => f >= 0 && f < this.num_frames).sort((a, b) => a - b); // what is played
    this.images = new Map();
    this.dense = new Map();
    api.knowRevision(this.id, data.draft.revision);
  }

  static async load(id, open = true) {
    return new Item(await (open ? api.call(`/api/items/${id}/open`, { tab: api.TAB }) : api.call(`/api/items/${id}`)));
  }

  get first() {
    return this.worst[0] ?? this.appearances[0]?.[0] ?? 0;
  }

  counts(frame) {
    return this.draft.masks[frame] ?? this.masks[frame];
  }

  /** The mask row by row, or null where there is none. */
  mask(frame) {
    const counts = this.counts(frame);
    if (counts === undefined) return null;
    const known = this.dense.get(frame);
    if (known?.counts === counts) return known.mask;
    const mask = decode(counts, this.height, this.width);
    this.dense.set(frame, { counts, mask });
    if (this.dense.size > 64) this.dense.delete(this.dense.keys().next().value);
    return mask;
  }

  locked(frame) {
    return this.draft.locks.includes(frame);
  }

  appearance(frame) {
    return this.appearances.findIndex(([start, stop]) => start <= frame && frame < stop);
  }

  /** The frame's picture, decoded; the ones after it are fetched along. */
  picture(frame, ahead = 0) {
    for (let f = frame; f <= Math.min(frame + ahead, this.num_frames - 1); f++) {
      if (this.images.has(f)) continue;
      const image = new Image();
      image.src = `/api/items/${this.id}/frames/${f}.jpg`;
      const ready = image.decode().then(() => ((image.ready = true), image));
      ready.catch(() => this.images.delete(f));
      this.images.set(f, { image, ready });
      if (this.images.size > 600) this.images.delete(this.images.keys().next().value);
    }
    return this.images.get(frame);
  }

  /** What is looked at first. */
  async prefetch() {
    await this.picture(this.first).ready;
    for (const frame of this.worst.slice(1, 4)) this.picture(frame);
    this.picture(this.appearances[0]?.[0] ?? 0, AHEAD);
  }

  edit(changes) {
    for (const change of changes) {
      if (change.kind === "mask") {
        if (change.counts === null) delete this.draft.masks[change.frame];
        else {
          this.draft.masks[change.frame] = change.counts;
          this.draft.locks = [...new Set([...this.draft.locks, change.frame])];
        }
      } else if (change.kind === "lock") {
        this.draft.locks = this.draft.locks.filter((f) => f !== change.frame).concat(change.on ? [change.frame] : []);
      } else if (change.text === null) delete this.draft.texts[change.expression_id];
      else this.draft.texts[change.expression_id] = change.text;
    }
    this.draft.undoable = true;
    return this.send("edit", { changes });
  }

  async send(action, body = {}) {
    const answer = await api.post(this.id, action, body);
    if (answer.draft && !api.waiting(this.id)) this.draft = answer.draft;
    return answer;
  }
}
