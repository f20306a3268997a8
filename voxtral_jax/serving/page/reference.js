/** A recording to clone: recorded here or uploaded, with the speaker's consent. */
import { saveVoice } from "./api.js";
import { readable } from "./decode.js";
import { $, tell } from "./dom.js";
import { Recorder } from "./recorder.js";

const LEAST_SECONDS = 3;
const MOST_SECONDS = 30;
/** How much the level meter falls from one block of 128 samples to the next; it rises at once. */
const FALL = 0.005;

let file = null;
let address = null;
let recording = false;

const recorder = new Recorder((level, seconds) => {
  $("level").value = Math.max(level, $("level").value - FALL);
  $("recorded").textContent = `${seconds.toFixed(1)} s`;
  if (recording && seconds >= MOST_SECONDS) stopRecording();
});

/**
 * Makes the panel work.
 * @param {(name: string) => void} onSaved with the name of a voice that the server now knows
 * @param {(error: Error) => void} onError with what the server refused
 */
export function showReference(onSaved, onError) {
  $("record").addEventListener("click", () => (recording ? stopRecording() : startRecording()));
  if (!Recorder.available) {
    $("record").disabled = true;
    $("record").title = "The browser lends its microphone only to pages on HTTPS or localhost";
  }
  $("file").addEventListener("change", ({ target }) => target.files.length && chooseFile(target.files[0]));
  $("reference-remove").addEventListener("click", () => {
    choose(null);
    $("record").focus();
  });
  $("consent").addEventListener("change", () => tell($("reference-message"), null));
  acceptDrops($("drop"));
  $("save-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const reference = takeReference();
    if (!reference) return;
    $("save").disabled = true;
    try {
      const name = $("save-name").value;
      await saveVoice({ ...reference, name, language: $("language").value });
      onSaved(name);
    } catch (error) {
      onError(error);
    } finally {
      $("save").disabled = false;
    }
  });
}

/**
 * The recording, if one is there and its speaker agrees; otherwise says what is missing.
 * @returns {{audio: File, consent: string} | null}
 */
export function takeReference() {
  if (!file) {
    tell($("reference-message"), "There is no recording yet: record one or choose a file.");
    $("record").focus();
    return null;
  }
  if (!$("consent").checked) {
    tell($("reference-message"), "A voice is cloned only with the speaker's consent: tick the box if you have it.");
    $("consent").focus();
    return null;
  }
  return { audio: file, consent: $("consent-text").textContent };
}

/** Shows a recording to listen to; null forgets it. Consent is given for one recording only. */
function choose(chosen) {
  file = chosen;
  tell($("reference-message"), null);
  if (address) URL.revokeObjectURL(address);
  address = chosen && URL.createObjectURL(chosen);
  if (address) $("reference-audio").src = address;
  else $("reference-audio").removeAttribute("src");
  $("reference-name").textContent = chosen?.name ?? "";
  $("reference-chosen").hidden = !chosen;
  $("consent").checked = false;
  $("file").value = "";
}

async function chooseFile(chosen) {
  choose(null);
  try {
    choose(await readable(chosen));
  } catch {
    tell($("reference-message"), `${chosen.name} holds no sound that this browser can read.`);
  }
}

async function startRecording() {
  choose(null);
  $("record").disabled = true;
  try {
    await recorder.start();
  } catch (error) {
    tell($("reference-message"), `The microphone cannot be used: ${error.message}.`);
    return;
  } finally {
    $("record").disabled = false;
  }
  recording = true;
  showRecording();
}

function stopRecording() {
  recording = false;
  showRecording();
  const audio = recorder.stop();
  if (recorder.seconds < LEAST_SECONDS) {
    tell($("reference-message"), `That was ${recorder.seconds.toFixed(1)} s; record ${LEAST_SECONDS} s or more.`);
    return;
  }
  choose(new File([audio], "recording.wav", { type: "audio/wav" }));
}

function showRecording() {
  $("record").textContent = recording ? "Stop recording" : "Record";
  $("drop").classList.toggle("recording", recording);
}

function acceptDrops(zone) {
  // Enter and leave are also sent for the children; only the zone's own count.
  zone.addEventListener("dragover", (event) => {
    event.preventDefault();
    zone.classList.add("over");
  });
  zone.addEventListener("dragleave", (event) => {
    if (!zone.contains(event.relatedTarget)) zone.classList.remove("over");
  });
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    if (event.dataTransfer.files.length) chooseFile(event.dataTransfer.files[0]);
  });
}
