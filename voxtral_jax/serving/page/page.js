/** Try the voices: the form, and the speech that it asks for. */
import { ApiError, speak, useKey } from "./api.js";
import { $, tell } from "./dom.js";
import { Pictures } from "./pictures.js";
import { Player } from "./player.js";
import { showReference, takeReference } from "./reference.js";
import { deleteChosen, setUp, showVoices } from "./voices.js";
import { toFloat, wav } from "./wav.js";

/** Samples a second of all Voxtral models. */
const RATE = 24_000;
/** Milliseconds between two positions of the playhead where motion is not wanted. */
const CALM = 500;

const player = new Player(RATE);
const pictures = new Pictures(
  { waveform: $("waveform"), spectrogram: $("spectrogram"), playhead: $("playhead"), span: $("span") },
  RATE,
);
/** The speech so far, and what ends the one under way. */
let pieces = [];
let stopper = null;

const seconds = () => pieces.reduce((sum, piece) => sum + piece.length, 0) / RATE;

/** The fields of the request, or null if something is missing and has been said. */
function request() {
  const fields = {
    input: $("text").value,
    seed: $("seed").valueAsNumber,
    guidance: $("guidance").valueAsNumber,
    noise_scale: $("noise-scale").valueAsNumber,
    temperature: $("temperature").valueAsNumber,
  };
  if ($("language").value) fields.language = $("language").value;
  if ($("source-reference").checked) {
    const reference = takeReference();
    return reference && { ...fields, ref_audio: reference.audio };
  }
  if ($("voice").value) fields.voice = $("voice").value;
  return fields;
}

/** Does something that Stop ends; its result is the status then. */
async function busily(status, act) {
  stopper = new AbortController();
  const { signal } = stopper;
  tell($("message"), null);
  showBusy(true);
  $("status").textContent = status;
  player.start();
  requestAnimationFrame(showPosition);
  let outcome = "Failed";
  try {
    outcome = await act(signal);
  } catch (error) {
    if (!signal.aborted) showError(error);
  }
  if (signal.aborted) outcome = "Stopped";
  // An error also ends what is under way.
  stopper.abort();
  stopper = null;
  player.stop();
  pictures.finish();
  pictures.showPosition(null);
  $("status").textContent = outcome;
  showBusy(false);
}

async function receive(fields, signal) {
  const begun = performance.now();
  const waited = () => (performance.now() - begun) / 1000;
  pieces = [];
  pictures.clear();
  for (const id of ["seconds", "first-audio", "factor", "underruns"]) $(id).textContent = "–";
  const reason = await speak(fields, signal, (samples) => {
    if (pieces.length === 0) {
      $("first-audio").textContent = `${waited().toFixed(2)} s`;
      $("status").textContent = "Speaking";
    }
    pieces.push(samples);
    player.push(toFloat(samples));
    pictures.push(toFloat(samples));
    $("seconds").textContent = `${seconds().toFixed(1)} s`;
    $("factor").textContent = (waited() / seconds()).toFixed(2);
    $("underruns").textContent = player.underruns;
  });
  pictures.finish();
  $("status").textContent = "Playing the rest";
  await player.end();
  return `Done: ${seconds().toFixed(1)} s${reason === "length" ? ", cut at the longest it may take" : ""}`;
}

async function replay() {
  for (const piece of pieces) player.push(toFloat(piece));
  await player.end();
  return "Done";
}

function stop() {
  stopper?.abort();
  player.stop();
}

function download() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(wav(pieces, RATE));
  link.download = "speech.wav";
  link.click();
  // The browser has taken hold of the data by the next turn.
  setTimeout(() => URL.revokeObjectURL(link.href));
}

function showPosition() {
  if (!stopper) return;
  pictures.showPosition(player.position);
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  setTimeout(() => requestAnimationFrame(showPosition), calm ? CALM : 0);
}

function showBusy(busy) {
  const focused = document.activeElement;
  $("speak").disabled = busy;
  $("stop").disabled = !busy;
  $("replay").disabled = $("download").disabled = busy || pieces.length === 0;
  // The keyboard stays at hand when the button under it is switched off.
  if (focused?.disabled) $(busy ? "stop" : "speak").focus();
}

function showError(error, place = $("message")) {
  tell(place, error instanceof ApiError ? error.message : `That failed: ${error.message}`);
  if (error.status === 401) {
    $("key-form").hidden = false;
    $("key").focus();
  }
}

async function loadVoices(chosen) {
  try {
    await showVoices(chosen);
  } catch (error) {
    showError(error);
  }
}

function showSource() {
  $("preset-panel").hidden = !$("source-preset").checked;
  $("reference-panel").hidden = $("source-preset").checked;
}

function showCount() {
  const count = [...$("text").value].length;
  $("text-count").textContent = `${count.toLocaleString("en")} character${count === 1 ? "" : "s"}`;
}

$("speak-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (stopper) return;
  const fields = request();
  if (fields) await busily("Waiting for the first sound", (signal) => receive(fields, signal));
});
// A field that is wrong cannot be shown while it is folded away.
$("speak-form").addEventListener("invalid", ({ target }) => (target.closest("details").open = true), true);
$("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  useKey($("key").value);
  $("key").value = "";
  $("key-form").hidden = true;
  tell($("message"), null);
  await loadVoices();
});
$("stop").addEventListener("click", stop);
$("replay").addEventListener("click", () => busily("Playing", replay));
$("download").addEventListener("click", download);
$("text").addEventListener("input", showCount);
$("voice-delete").addEventListener("click", async () => {
  try {
    await deleteChosen();
  } catch (error) {
    showError(error);
  }
});
for (const id of ["source-preset", "source-reference"]) $(id).addEventListener("change", showSource);
$("seed-draw").addEventListener("click", () => {
  $("seed").value = crypto.getRandomValues(new Uint32Array(1))[0];
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("speak-form").requestSubmit();
});

showReference(
  async (name) => {
    await loadVoices(name);
    $("source-preset").checked = true;
    showSource();
    $("voice").focus();
    $("status").textContent = `Saved the voice ${name}`;
  },
  (error) => showError(error, $("reference-message")),
);
setUp();
showSource();
showCount();
await loadVoices();
