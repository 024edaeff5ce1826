// The list of sentences to ask, one an input, each with its number and colour.

import { COLOURS, inkOn } from "./overlay.js";

/** A sentence's number on its colour. */
export function badge(k) {
  const mark = document.createElement("span");
  mark.className = "number";
  mark.textContent = String(k + 1);
  mark.style.background = COLOURS[k];
  mark.style.color = inkOn(COLOURS[k]);
  mark.setAttribute("aria-hidden", "true");
  return mark;
}

export class Sentences {
  constructor(list, add) {
    Object.assign(this, { list, button: add });
    add.addEventListener("click", () => this.add("").focus());
    list.addEventListener("paste", (event) => this.#paste(event));
    this.add("");
  }

  get inputs() {
    return [...this.list.querySelectorAll("input")];
  }

  /** What is asked: the sentences that say something, without space around them. */
  get texts() {
    return this.inputs.map((input) => input.value.trim()).filter(Boolean);
  }

  /** Put these in the place of all that is there. */
  set texts(texts) {
    this.list.replaceChildren();
    for (const text of texts.length ? texts : [""]) this.add(text);
  }

  /** One more sentence, in the first empty input where there is one; returns the input. */
  add(text) {
    const empty = text && this.inputs.find((input) => !input.value.trim());
    if (empty) {
      empty.value = text;
      return empty;
    }
    if (this.list.children.length >= COLOURS.length) return this.inputs.at(-1);
    const item = document.createElement("li");
    const input = Object.assign(document.createElement("input"), { type: "text", value: text, spellcheck: true, maxLength: 1000 });
    input.autocomplete = "off";
    const remove = Object.assign(document.createElement("button"), { type: "button", className: "icon", textContent: "×" });
    remove.addEventListener("click", () => this.#remove(item));
    item.append(badge(this.list.children.length), input, remove);
    this.list.append(item);
    this.#number();
    return input;
  }

  #remove(item) {
    const next = item.nextElementSibling ?? item.previousElementSibling;
    item.remove();
    if (next) next.querySelector("input").focus();
    else this.add("").focus();
    this.#number();
  }

  #number() {
    const items = [...this.list.children];
    items.forEach((item, k) => {
      item.firstElementChild.replaceWith(badge(k));
      const [input, remove] = [item.querySelector("input"), item.querySelector("button")];
      input.setAttribute("aria-label", `Sentence ${k + 1}`);
      input.placeholder = k ? "" : "the red mug on the table";
      remove.setAttribute("aria-label", `Remove sentence ${k + 1}`);
      remove.hidden = items.length === 1;
    });
    this.button.hidden = items.length >= COLOURS.length;
  }

  /** Several lines pasted are several sentences. */
  #paste(event) {
    const lines = event.clipboardData.getData("text/plain").split(/\r?\n/).map((line) => line.trim()).filter(Boolean);
    if (lines.length < 2) return;
    event.preventDefault();
    this.texts = [...this.texts, ...lines].slice(0, COLOURS.length);
    this.inputs.at(-1).focus();
  }
}
