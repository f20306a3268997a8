/** Plays samples while they arrive, without gaps as long as they arrive in time. */

/** Seconds that must be there before playback starts, and again each time that it ran dry. */
const FIRST_LEAD = 0.2;
const MOST_LEAD = 1.6;
/** Seconds between scheduling a sound and its start, for the audio thread to take notice. */
const MARGIN = 0.03;

export class Player {
  #rate;
  #context = null;
  #sources = new Set();
  /** Scheduled pieces that are not over: starts on the context's clock and in the speech, length. */
  #pieces = [];
  #held = [];
  #lead;
  #waiting;
  #nextSample;
  #taken;
  #whenOver;
  underruns = 0;

  /** @param {number} rate samples a second */
  constructor(rate) {
    this.#rate = rate;
  }

  /** Makes ready for a new speech; must be called in a handler of a click or key. */
  start() {
    this.stop();
    // The context runs at the speech's rate, so that pieces join without resampling.
    this.#context ??= new AudioContext({ sampleRate: this.#rate });
    this.#context.resume();
    this.#lead = FIRST_LEAD;
    this.#waiting = true;
    this.#taken = 0;
    this.underruns = 0;
  }

  /** @param {Float32Array} samples that follow those pushed before */
  push(samples) {
    if (!this.#waiting && this.#nextSample / this.#rate <= this.#context.currentTime) {
      this.underruns++;
      this.#waiting = true;
      this.#lead = Math.min(2 * this.#lead, MOST_LEAD);
    }
    this.#held.push(samples);
    const seconds = this.#held.reduce((sum, piece) => sum + piece.length, 0) / this.#rate;
    if (!this.#waiting || seconds >= this.#lead) this.#release();
  }

  /** Says that no more will come; the promise is kept when all has been played or stopped. */
  async end() {
    this.#release();
    if (this.#sources.size) await new Promise((resolve) => (this.#whenOver = resolve));
  }

  /** Falls silent at once. */
  stop() {
    this.#held = [];
    this.#pieces = [];
    for (const source of this.#sources) {
      source.onended = null;
      source.stop();
    }
    this.#sources.clear();
    this.#whenOver?.();
  }

  /** Seconds of the speech that have been played, or null while nothing has. */
  get position() {
    const now = this.#context?.currentTime;
    while (this.#pieces.length > 1 && this.#pieces[1].at <= now) this.#pieces.shift();
    const piece = this.#pieces[0];
    if (!piece || piece.at > now) return null;
    return piece.from + Math.min(now - piece.at, piece.seconds);
  }

  #release() {
    if (this.#waiting) {
      this.#nextSample = Math.ceil((this.#context.currentTime + MARGIN) * this.#rate);
      this.#waiting = false;
    }
    for (const samples of this.#held) this.#schedule(samples);
    this.#held = [];
  }

  #schedule(samples) {
    const buffer = this.#context.createBuffer(1, samples.length, this.#rate);
    buffer.copyToChannel(samples, 0);
    const source = new AudioBufferSourceNode(this.#context, { buffer });
    source.connect(this.#context.destination);
    source.onended = () => {
      this.#sources.delete(source);
      if (this.#sources.size === 0) this.#whenOver?.();
    };
    // Counted in samples: sums of seconds would drift off the grid.
    const at = this.#nextSample / this.#rate;
    source.start(at);
    this.#sources.add(source);
    this.#pieces.push({ at, from: this.#taken / this.#rate, seconds: buffer.duration });
    this.#nextSample += samples.length;
    this.#taken += samples.length;
  }
}
