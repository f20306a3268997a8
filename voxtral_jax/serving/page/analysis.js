/** What the pictures show of a sound, column by column as it arrives. */
import { Fft } from "./fft.js";

export const BANDS = 80;
const WINDOW = 1024;
const FIRST_HOP = 128;
/** When all columns are taken, pairs become one: any length fits, at half the detail. */
const MOST_COLUMNS = 2048;
/** Decibels below full scale that are shown as silence. */
const FLOOR = 75;

const mel = (hertz) => 2595 * Math.log10(1 + hertz / 700);
const hertz = (mel) => 700 * (10 ** (mel / 2595) - 1);

/** Triangles on the mel scale: for each band its first bin and weights that sum to one. */
function melBands(rate) {
  const bins = WINDOW / 2 + 1;
  const top = mel(rate / 2);
  const edge = (band) => (hertz((top * band) / (BANDS + 1)) * WINDOW) / rate;
  return Array.from({ length: BANDS }, (_, band) => {
    const [left, peak, right] = [edge(band), edge(band + 1), edge(band + 2)];
    const weights = [];
    // Low triangles are narrower than a bin: they take the nearest one.
    const first = Math.min(Math.ceil(left), Math.round(peak));
    for (let bin = first; bin < bins && (bin < right || bin === Math.round(peak)); bin++) {
      const weight = bin < peak ? (bin - left) / (peak - left) : (right - bin) / (right - peak);
      weights.push(Math.max(weight, 1e-3));
    }
    const sum = weights.reduce((a, b) => a + b);
    return { first, weights: weights.map((weight) => weight / sum) };
  });
}

export class Analysis {
  #bands;
  #fft = new Fft(WINDOW);
  #hann = Float32Array.from({ length: WINDOW }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / WINDOW));
  /** The newest samples; those from WINDOW - #fresh on belong to no column yet. */
  #recent = new Float32Array(WINDOW);
  #fresh = 0;
  #windowed = new Float32Array(WINDOW);
  #power = new Float32Array(WINDOW / 2 + 1);
  #lowest = 0;
  #highest = 0;

  /** @param {number} rate samples a second */
  constructor(rate) {
    this.rate = rate;
    this.hop = FIRST_HOP;
    this.columns = 0;
    this.low = new Float32Array(MOST_COLUMNS);
    this.high = new Float32Array(MOST_COLUMNS);
    /** Levels of each column's bands, 0 (silent) to 255. */
    this.levels = new Uint8Array(MOST_COLUMNS * BANDS);
    this.#bands = melBands(rate);
  }

  /** @param {Float32Array} samples in [-1, 1] */
  push(samples) {
    for (let start = 0; start < samples.length; ) {
      const piece = samples.subarray(start, start + Math.min(this.hop - this.#fresh, WINDOW));
      this.#recent.copyWithin(0, piece.length);
      this.#recent.set(piece, WINDOW - piece.length);
      for (const sample of piece) {
        if (sample < this.#lowest) this.#lowest = sample;
        if (sample > this.#highest) this.#highest = sample;
      }
      this.#fresh += piece.length;
      start += piece.length;
      if (this.#fresh < this.hop) continue;
      // After halving, what is there is the first half of a column.
      if (this.columns === MOST_COLUMNS) this.#halve();
      else this.#addColumn();
    }
  }

  #addColumn() {
    const column = this.columns++;
    this.low[column] = this.#lowest;
    this.high[column] = this.#highest;
    this.#lowest = this.#highest = this.#fresh = 0;
    for (let i = 0; i < WINDOW; i++) this.#windowed[i] = this.#recent[i] * this.#hann[i];
    this.#fft.power(this.#windowed, this.#power);
    // A sine at full scale has the magnitude WINDOW / 4 under this window.
    const full = (WINDOW / 4) ** 2;
    this.#bands.forEach(({ first, weights }, band) => {
      let sum = 0;
      for (let i = 0; i < weights.length; i++) sum += weights[i] * this.#power[first + i];
      const decibels = 10 * Math.log10(sum / full + 1e-12);
      this.levels[column * BANDS + band] = Math.max(0, Math.min(255, 255 * (1 + decibels / FLOOR)));
    });
  }

  #halve() {
    this.columns = MOST_COLUMNS / 2;
    this.hop *= 2;
    for (let i = 0; i < this.columns; i++) {
      this.low[i] = Math.min(this.low[2 * i], this.low[2 * i + 1]);
      this.high[i] = Math.max(this.high[2 * i], this.high[2 * i + 1]);
      for (let band = 0; band < BANDS; band++) {
        const from = 2 * i * BANDS + band;
        this.levels[i * BANDS + band] = Math.max(this.levels[from], this.levels[from + BANDS]);
      }
    }
  }
}
