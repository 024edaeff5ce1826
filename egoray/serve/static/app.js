// The try-it page: choose a video, say what to look for, watch the answer arrive.

import { Answer } from "./answer.js";
import { Refusal, getFile, ground, useToken } from "./api.js";
import { offerDownloads } from "./downloads.js";
import { Follower } from "./follower.js";
import { Notice } from "./notice.js";
import { listModels, listSamples } from "./offers.js";
import { Rows } from "./rows.js";
import { Sentences } from "./sentences.js";
import { Stage } from "./stage.js";
import { Timeline, clock } from "./timeline.js";

const $ = (id) => document.getElementById(id);
const VIDEO_NAME = /\.(mp4|m4v|mov|webm|mkv|avi|mpe?g|ts|3gp)$/i;

let source = null; // {name, file} or {name, sample}
let asking = null; // the AbortController of the question under way
let answer = null;

const stage = new Stage($("video"), $("masks"));
const timeline = new Timeline($("timeline"), stage, take);
const rows = new Rows($("rows"), timeline, { change: () => stage.draw(), go: take });
const follower = new Follower({ stage, button: $("follow"), waiting: $("waiting") });
const sentences = new Sentences($("sentences"), $("add"));
const notice = new Notice({ box: $("error"), title: $("error-title"), remedy: $("error-remedy"), retry: $("retry") });

const say = (text) => ($("live").textContent = text);

/** Go to a second because somebody wants to: the picture no longer follows the model. */
function take(time_s) {
  follower.turn(false);
  stage.pause();
  stage.seek(time_s);
}

// The video

function open(chosen, url) {
  cancel();
  asking = null;
  running(false);
  if (stage.video.src) URL.revokeObjectURL(stage.video.src);
  source = chosen;
  notice.hide();
  put(null);
  $("saves").hidden = $("progress").hidden = $("drop").hidden = $("unplayable").hidden = true;
  for (const id of ["video", "masks", "controls", "timeline", "keys"]) $(id).hidden = false;
  $("name").textContent = chosen.name;
  stage.load(url);
  for (const card of $("samples").querySelectorAll("button")) card.setAttribute("aria-pressed", String(card.name === chosen.sample));
}

function openFile(file) {
  if (!file) return;
  if (!file.type.startsWith("video/") && !VIDEO_NAME.test(file.name)) {
    notice.show(new Refusal({ title: `${file.name} is not a video`, remedy: "Choose an mp4, webm, mov or mkv file." }));
    return;
  }
  $("chips").hidden = true;
  open({ name: file.name, file }, URL.createObjectURL(file));
  say(`${file.name} is open`);
}

async function openSample({ name, url, texts }) {
  try {
    open({ name, sample: name }, URL.createObjectURL(await getFile(url)));
  } catch (error) {
    refuse(error);
    return;
  }
  $("chips").hidden = !texts.length;
  $("chips").replaceChildren(...texts.map(chip));
  sentences.texts = texts.slice(0, 1);
  say(`Sample ${name} is open`);
}

function chip(text) {
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: text });
  button.addEventListener("click", () => sentences.texts.includes(text) || sentences.add(text));
  return button;
}

stage.addEventListener("ready", () => {
  shape();
  $("unplayable").hidden = stage.playable;
  $("video").hidden = !stage.playable;
  timeline.paint();
  if (!stage.playable) say("This browser cannot play this file. Asking works all the same.");
});
stage.addEventListener("time", () => {
  $("clock").textContent = `${clock(stage.time_s)} / ${clock(stage.duration_s)}`;
});
stage.addEventListener("state", () => {
  $("play").setAttribute("aria-label", stage.paused ? "Play" : "Pause");
  $("play").classList.toggle("playing", !stage.paused);
});

function shape() {
  const [height, width] = stage.size_hw;
  $("stage").style.aspectRatio = `${width} / ${height}`;
}

$("file").addEventListener("change", ({ target }) => {
  openFile(target.files[0]);
  target.value = "";
});
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    $("stage").classList.toggle("over", name === "dragover");
    if (name === "drop") openFile(event.dataTransfer.files[0]);
  });
}

function playOrPause() {
  follower.turn(false);
  if (stage.paused) stage.play();
  else stage.pause();
}

$("play").addEventListener("click", playOrPause);
$("video").addEventListener("click", playOrPause);
$("back").addEventListener("click", () => take(timeline.next_s(-1)));
$("forward").addEventListener("click", () => take(timeline.next_s(1)));

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") cancel();
  if (!source || event.altKey || event.ctrlKey || event.metaKey) return;
  const inView = $("view").contains(event.target);
  const taken = event.target.matches("input, select, button, summary, a");
  if (event.key === " " && !taken) playOrPause();
  else if (event.key === "ArrowLeft" && (inView || !taken)) take(event.shiftKey ? stage.time_s - 1 : timeline.next_s(-1));
  else if (event.key === "ArrowRight" && (inView || !taken)) take(event.shiftKey ? stage.time_s + 1 : timeline.next_s(1));
  else if (/^[1-7]$/.test(event.key) && inView) rows.toggle(Number(event.key) - 1);
  else return;
  event.preventDefault();
});

// The question

function question() {
  const form = new FormData();
  if (source.file) form.append("video", source.file, source.name);
  else form.append("sample", source.sample);
  for (const text of sentences.texts) form.append("text", text);
  for (const name of ["model", "start_s", "stop_s", "fps", "max_frames"]) if ($(name).value.trim()) form.append(name, $(name).value.trim());
  form.append("stream", "true");
  return form;
}

function seconds(id) {
  const value = Number.parseFloat($(id).value);
  return Number.isFinite(value) ? value : null;
}

/** Whether there is something to ask; else say what is missing, and go there. */
function ready() {
  if (source && sentences.texts.length) return true;
  const [title, remedy, where] = source
    ? ["Say what to look for", "For example: the red mug on the table.", sentences.inputs[0]]
    : ["Choose a video first", "Drop one on the page, choose a file, or take a sample clip.", $("file")];
  notice.show(new Refusal({ title, remedy }));
  where.focus();
  return false;
}

async function ask() {
  if (asking || !ready()) return;
  const fromButton = document.activeElement.matches("#submit, #retry");
  sentences.texts = sentences.texts; // without the empty ones, so that numbers agree
  notice.hide();
  useToken($("token").value);
  const controller = (asking = new AbortController());
  const earlier = answer;
  put(new Answer(sentences.texts, { start_s: seconds("start_s") ?? 0, stop_s: seconds("stop_s") }));
  stage.pause();
  stage.seek(answer.asked.start_s);
  running(true);
  if (fromButton) $("cancel").focus();
  if ($("stage").getBoundingClientRect().top < 0) $("view").scrollIntoView();
  say("Asking");
  const began = performance.now();
  const since = () => `${((performance.now() - began) / 1000).toFixed(1)} s`;
  const timer = setInterval(() => doing(since()), 100);
  let end = "";
  try {
    for await (const event of ground(question(), controller.signal)) if (asking === controller) hear(event);
    end = `Done in ${since()}: ${found()}${stages()}`;
  } catch (error) {
    end = controller.signal.aborted ? `Cancelled after ${since()}; what arrived is kept` : `Stopped after ${since()}`;
    if (asking === controller && !controller.signal.aborted) {
      refuse(error);
      if (!answer.start) end = "";
    }
  } finally {
    clearInterval(timer);
  }
  if (asking !== controller) return;
  asking = null;
  if (!answer.start) put(earlier);
  const fromCancel = document.activeElement === $("cancel");
  running(false);
  if (fromCancel) $("submit").focus();
  $("doing").textContent = end;
  say(end);
}

/** Have this answer on the page, or none. */
function put(one) {
  answer = one;
  rows.reset(answer);
  stage.show(answer, rows.shown);
}

function hear(event) {
  const isFirst = event.event === "frame" && answer.rows[event.text_index]?.frames.length === 0;
  answer.take(event);
  if (event.event === "start" && !stage.playable) shape();
  if (isFirst) say(`Seen at ${clock(event.time_s)}: ${answer.rows[event.text_index].text}`);
  refresh();
  follower.keepUp();
}

let drawing = 0;
/** Draw what arrived, once a screen frame however much it was. */
function refresh() {
  drawing ||= requestAnimationFrame(() => {
    drawing = 0;
    rows.update(Boolean(asking));
    stage.draw();
    $("saves").hidden = !answer?.start;
  });
}

function found() {
  const seen = answer.rows.filter((row) => row.frames.length).length;
  if (answer.rows.length === 1) return seen ? "found" : "not found";
  return `${seen} of ${answer.rows.length} found`;
}

function stages() {
  const inWords = ([name, value]) => `${name.replaceAll("_", " ")} ${Number(value).toFixed(2)} s`;
  const parts = Object.entries(answer.summary.timing_s ?? {}).map(inWords);
  return parts.length ? ` (${parts.join(", ")})` : "";
}

function doing(since) {
  if (!answer) return;
  const { done, total } = answer.progress;
  const waiting = source.file ? `Sending ${(source.file.size / 1e6).toFixed(1)} MB, waiting for the model` : "Waiting for the model";
  const what = total ? `${done} of ${total} frames` : answer.start ? "Reading the video" : waiting;
  $("doing").textContent = `${what} · ${since}`;
  if (total) $("bar").value = done / total;
  else $("bar").removeAttribute("value");
}

function running(on) {
  $("submit").hidden = on;
  $("cancel").hidden = $("bar").hidden = !on;
  if (on) $("progress").hidden = false;
  follower.watch(on ? answer : null);
  refresh();
}

function cancel() {
  asking?.abort();
}

function refuse(error) {
  notice.show(error);
  if (error.status !== 401 && error.status !== 403) return;
  $("options").open = true;
  $("token").focus();
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
$("retry").addEventListener("click", () => (source ? ask() : list()));
$("cancel").addEventListener("click", cancel);
$("token").addEventListener("change", list);

async function list() {
  useToken($("token").value);
  notice.hide();
  try {
    await Promise.all([listModels($("model"), $("model-note")), listSamples($("samples"), $("samples-box"), openSample)]);
  } catch (error) {
    refuse(error);
  }
}

const buttons = { json: $("save-json"), png: $("save-png"), film: $("save-film") };
offerDownloads(buttons, { stage, name: () => source.name, say, refuse });
list();
