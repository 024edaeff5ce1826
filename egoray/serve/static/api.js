// The grounding service as the page asks it, and its refusals in plain words.

let token = "";

/** Sent as the bearer of every later request; "" for none. Kept in memory only. */
export const useToken = (text) => (token = text.trim());

/** A request that brought no answer: why, what helps, and after how many seconds another try makes sense. */
export class Refusal extends Error {
  constructor({ title, remedy, status = 0, retry_s = null }) {
    super(title);
    Object.assign(this, { remedy, status, retry_s });
  }
}

const WORDS = {
  400: ["The question was not understood", "Change what it names, then ask again."],
  401: ["This service asks for a token", "Enter the token it was started with, under Options, then ask again."],
  403: ["The service does not accept this token", "Enter the token it was started with, under Options, then ask again."],
  404: ["The service does not know this", "Choose another sample or model, then ask again."],
  408: ["The video took too long to arrive", "Try a shorter or smaller video."],
  413: ["This video is more than the service takes", "Trim it, or lower its resolution, then ask again."],
  415: ["The service cannot read this file", "Convert it to mp4 (H.264), then ask again."],
  422: ["The question was not understood", "Change what it names, then ask again."],
  429: ["The service is busy", "Others are asking too; your question was not lost, ask again in a moment."],
  503: ["The service is not ready", "It may be loading weights or have too much to do; ask again in a moment."],
  504: ["The model took too long", "Ask about a shorter part of the video, or fewer frames, under Options."],
};

async function refusal(response) {
  const body = await response.json().catch(() => null);
  const fallback = ["The service failed", "Ask again; if it fails again, its log says why."];
  const [title, remedy] = WORDS[response.status] ?? fallback;
  const said = body?.error?.message;
  const wait = Number.parseFloat(response.headers.get("Retry-After"));
  return new Refusal({
    title,
    remedy: said ? `${said} ${remedy}` : remedy,
    status: response.status,
    retry_s: Number.isFinite(wait) ? wait : [429, 503].includes(response.status) ? 2 : null,
  });
}

async function request(path, options = {}) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal({
      title: "The service cannot be reached",
      remedy: "See whether it still runs. If it does, the video may be larger than it takes; try a smaller one.",
      retry_s: 0,
    });
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

/** The service's answer to a GET, as an object. */
export const getJSON = async (path) => (await request(path)).json();

/** A file of the service, whole, so that it can be sought in whatever the server can do. */
export const getFile = async (url) => (await request(url)).blob();

/**
 * Ask, and yield the events of the answer as they arrive; returning from the loop early ends the request.
 *
 * Throws a Refusal where the service refuses, fails midway or ends before its last event.
 */
export async function* ground(form, signal) {
  const response = await request("v1/ground", { method: "POST", body: form, signal });
  for await (const line of lines(response.body)) {
    const event = JSON.parse(line);
    if (event.event === "error") {
      throw new Refusal({ title: "The model stopped midway", remedy: `${event.error.message} What arrived before is kept.`, retry_s: 0 });
    }
    yield event;
    if (event.event === "done") return;
  }
  throw new Refusal({ title: "The answer broke off", remedy: "What arrived is kept. Ask again for the rest.", retry_s: 0 });
}

async function* lines(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read().catch((error) => {
        if (error.name === "AbortError") throw error;
        return { done: true };
      });
      if (done) return;
      const parts = (rest + value).split("\n");
      rest = parts.pop();
      yield* parts.filter((line) => line.trim());
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
