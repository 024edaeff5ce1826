// The buttons that save the answer on the stage.

import { asFilm, asJSON, asPicture, filmKind, save } from "./save.js";

/**
 * @param {{json: HTMLButtonElement, png: HTMLButtonElement, film: HTMLButtonElement}} buttons
 * @param {{stage: Stage, name: () => string, say: (text: string) => void, refuse: (error: Error) => void}} page
 */
export function offerDownloads(buttons, { stage, name, say, refuse }) {
  const base = () => name().replace(/\.[^.]*$/, "");
  buttons.json.addEventListener("click", () => save(asJSON(stage.answer), `${base()}.json`));
  buttons.png.addEventListener("click", async () => save(await asPicture(stage), `${base()}-${stage.time_s.toFixed(2)}s.png`));

  const kind = filmKind();
  const ending = kind?.includes("mp4") ? "mp4" : "webm";
  const label = kind ? `Overlay, ${ending === "mp4" ? "MP4" : "WebM"}` : "Overlay: this browser cannot record";
  buttons.film.disabled = !kind;
  buttons.film.textContent = label;
  let recording = null;
  buttons.film.addEventListener("click", async () => {
    if (recording) {
      recording.abort();
      return;
    }
    recording = new AbortController();
    const progress = (share) => (buttons.film.textContent = `Recording ${Math.round(100 * share)} %, press to stop`);
    const file = `${base()}-overlay.${ending}`;
    try {
      save(await asFilm(stage, progress, recording.signal), file);
      say("The overlay is recorded");
    } catch (error) {
      if (error.name !== "AbortError") refuse(error);
    }
    recording = null;
    buttons.film.textContent = label;
  });
}
