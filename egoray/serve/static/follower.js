// Keeps the picture where the model is while it answers, until somebody goes elsewhere.

const AHEAD_S = 0.6; // play while the model is this far ahead, else show its frames as they come

export class Follower {
  /** @param {{stage: Stage, button: HTMLButtonElement, waiting: HTMLElement}} parts the switch, and what says that nothing came yet */
  constructor(parts) {
    Object.assign(this, parts, { answer: null, on: false });
    this.button.addEventListener("click", () => this.turn(!this.on));
    this.stage.addEventListener("time", () => this.keepUp());
  }

  /** An answer begins to arrive, or none does any longer. */
  watch(answer) {
    this.answer = answer;
    this.button.hidden = !answer;
    this.turn(Boolean(answer));
  }

  turn(on) {
    this.on = on && Boolean(this.answer);
    this.button.setAttribute("aria-pressed", String(this.on));
    this.waiting.hidden = !this.on || this.answer.latest_s !== null;
    this.keepUp();
  }

  keepUp() {
    if (!this.on || this.answer.latest_s === null) return;
    const { stage, answer } = this;
    this.waiting.hidden = true;
    const ahead_s = answer.latest_s - stage.time_s;
    if (!stage.paused && ahead_s <= answer.step_s) stage.pause();
    else if (!stage.paused || stage.video.seeking) return;
    else if (ahead_s > AHEAD_S && !matchMedia("(prefers-reduced-motion: reduce)").matches) stage.play();
    else if (Math.abs(ahead_s) > answer.step_s / 2) stage.seek(answer.latest_s);
  }
}
