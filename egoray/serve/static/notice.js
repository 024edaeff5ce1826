// The box that says what went wrong, what helps, and when to ask again.

import { Refusal } from "./api.js";

export class Notice {
  /** @param parts the elements {box, title, remedy, retry} */
  constructor(parts) {
    Object.assign(this, parts);
    this.timer = 0;
  }

  hide() {
    clearInterval(this.timer);
    this.box.hidden = this.retry.hidden = true;
  }

  show(error) {
    this.hide();
    const expected = error instanceof Refusal;
    if (!expected) console.error(error);
    this.title.textContent = expected ? error.message : "The page failed";
    this.remedy.textContent = expected ? error.remedy : `${error.message}. Reload it and try again.`;
    this.box.hidden = false;
    if (expected && error.retry_s !== null) this.#offer(Math.min(Math.ceil(error.retry_s), 600));
  }

  #offer(left) {
    const show = () => {
      this.retry.disabled = left > 0;
      this.retry.textContent = left > 0 ? `Ask again in ${left} s` : "Ask again";
      if (left-- <= 0) clearInterval(this.timer);
    };
    this.retry.hidden = false;
    this.timer = setInterval(show, 1000);
    show();
  }
}
