// What the service offers: its models in a list, its sample clips as cards.

import { getJSON } from "./api.js";

/** Fill the list of models and say of the chosen one what it is. */
export async function listModels(select, note) {
  const { models, default: chosen } = await getJSON("v1/models");
  const option = ({ name }) => Object.assign(document.createElement("option"), { value: name, textContent: name });
  select.replaceChildren(...models.map(option));
  select.value = chosen;
  select.onchange = () => {
    const { summary = "", ready = true } = models.find(({ name }) => name === select.value) ?? {};
    note.textContent = ready ? summary : `${summary} Its weights are not loaded yet; the first answer takes longer.`.trim();
  };
  select.onchange();
}

/** Fill the list of sample clips, and hide its box where there are none; `open` is called with the one chosen. */
export async function listSamples(list, box, open) {
  const { samples } = await getJSON("v1/samples");
  list.replaceChildren(...samples.map((sample) => card(sample, open)));
  box.hidden = !samples.length;
}

function card(sample, open) {
  const button = Object.assign(document.createElement("button"), { type: "button", name: sample.name });
  button.setAttribute("aria-pressed", "false");
  const src = `${new URL(sample.url, document.baseURI)}#t=0.5`; // a still from half a second in
  const still = Object.assign(document.createElement("video"), { muted: true, preload: "metadata", tabIndex: -1, src });
  still.setAttribute("aria-hidden", "true");
  button.append(still, Object.assign(document.createElement("span"), { textContent: sample.name }));
  button.addEventListener("click", () => open(sample));
  const item = document.createElement("li");
  item.append(button);
  return item;
}
