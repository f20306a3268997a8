/** The requests that this page makes of its server. */
import { eventsOf } from "./events.js";
import { fromBase64 } from "./wav.js";

const KEY = "voxtral-api-key";

/** Why a request failed, in the server's words if it answered; `status` is 0 if it did not. */
export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** Keeps the API key until the tab is closed. */
export const useKey = (key) => sessionStorage.setItem(KEY, key);

async function ask(path, options = {}) {
  const headers = new Headers(options.headers);
  const key = sessionStorage.getItem(KEY);
  if (key) headers.set("Authorization", `Bearer ${key}`);
  let response;
  try {
    // Relative, so that the page also works behind a path of a proxy.
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server does not answer. Is it still running?", 0);
  }
  if (response.ok) return response;
  const answer = await response.json().catch(() => null);
  const message = answer?.error?.message ?? `The server answers ${response.status} ${response.statusText}.`;
  throw new ApiError(message, response.status);
}

/** The voices that the server knows. */
export async function listVoices() {
  return (await (await ask("v1/audio/voices")).json()).voices;
}

/**
 * Asks for speech. It comes as events, which say how it ended and what went wrong midway.
 * @param {object} fields of the API beside the format; `ref_audio` is a file
 * @param {AbortSignal} signal ends it; the server then stops speaking
 * @param {(samples: Int16Array) => void} onSamples is called as they arrive
 * @returns {Promise<string>} why it ended: "stop", or "length" if it was cut
 */
export async function speak(fields, signal, onSamples) {
  const request = { ...fields, response_format: "pcm", stream: true, stream_format: "sse" };
  if (fields.ref_audio) request.ref_audio = await dataUri(fields.ref_audio);
  const response = await ask("v1/audio/speech", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(request),
    signal,
  });
  for await (const event of eventsOf(response.body)) {
    if (event.type === "speech.audio.delta") onSamples(fromBase64(event.audio));
    if (event.type === "speech.audio.done") return event.finish_reason;
    if (event.type === "error") throw new ApiError(event.error.message, 0);
  }
  throw new ApiError("The connection broke before the speech had ended.", 0);
}

function dataUri(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new ApiError("The recording cannot be read; choose it again.", 0));
    reader.readAsDataURL(file);
  });
}

/**
 * Keeps a recording as a voice of the server.
 * @param {{name: string, audio: File, consent: string, language: string}} voice
 */
export async function saveVoice({ name, audio, consent, language }) {
  const body = new FormData();
  body.set("name", name);
  body.set("audio", audio, audio.name);
  body.set("consent", consent);
  if (language) body.set("language", language);
  await ask("v1/audio/voices", { method: "POST", body });
}

/** Deletes a voice that was kept. */
export const deleteVoice = (name) => ask(`v1/audio/voices/${encodeURIComponent(name)}`, { method: "DELETE" });
