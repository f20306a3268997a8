/** Records the microphone, uncompressed. */
import { toInteger, wav } from "./wav.js";

export class Recorder {
  #onSound;
  #context;
  #stream;
  #pieces;
  seconds = 0;

  /** @param {(level: number, seconds: number) => void} onSound with the loudness, 0 to 1, and the length so far */
  constructor(onSound) {
    this.#onSound = onSound;
  }

  /** Whether this page may ask for the microphone: browsers want HTTPS or localhost for that. */
  static get available() {
    return Boolean(navigator.mediaDevices?.getUserMedia && window.AudioWorkletNode);
  }

  /** Asks for the microphone and begins; rejects with a DOMException if it is refused. */
  async start() {
    this.#stream = await navigator.mediaDevices.getUserMedia({
      // Made for telephone calls: they change the voice that is to be cloned.
      audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false },
    });
    this.#context = new AudioContext();
    await this.#context.audioWorklet.addModule(new URL("tap.js", import.meta.url));
    const tap = new AudioWorkletNode(this.#context, "tap", { channelCount: 1, channelCountMode: "explicit" });
    this.#pieces = [];
    this.seconds = 0;
    tap.port.onmessage = ({ data }) => this.#take(data);
    this.#context.createMediaStreamSource(this.#stream).connect(tap);
    // A node that leads nowhere is not run; the tap's output is silence.
    tap.connect(this.#context.destination);
  }

  /** Ends the recording. @returns {Blob} a WAV file */
  stop() {
    for (const track of this.#stream.getTracks()) track.stop();
    const { sampleRate } = this.#context;
    this.#context.close();
    return wav(this.#pieces, sampleRate);
  }

  #take(samples) {
    this.#pieces.push(toInteger(samples));
    this.seconds += samples.length / this.#context.sampleRate;
    const peak = samples.reduce((most, sample) => Math.max(most, Math.abs(sample)), 0);
    // From -50 dB to full scale.
    this.#onSound(Math.max(0, 1 + (20 * Math.log10(peak + 1e-9)) / 50), this.seconds);
  }
}
