/** Waveform and spectrogram of a speech on two canvases over one time axis. */
import { Analysis, BANDS } from "./analysis.js";

/** Seconds that the axis shows at first; it doubles whenever they are full. */
const FIRST_SPAN = 4;
/** Shades between the colours of `--heat`. */
const SHADES = 256;

const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

/** The style sheet's colours from silent to loud, as `SHADES` pixels. */
function shades(style) {
  const stops = style.getPropertyValue("--heat").split(",").map((hex) => rgb(hex.trim()));
  return Uint32Array.from({ length: SHADES }, (_, shade) => {
    const place = (shade / (SHADES - 1)) * (stops.length - 1);
    const index = Math.min(Math.floor(place), stops.length - 2);
    const [r, g, b] = stops[index].map((from, i) => from + (stops[index + 1][i] - from) * (place - index));
    // Canvas memory is red, green, blue, alpha; every machine with a browser is little-endian.
    return (255 << 24) | (Math.round(b) << 16) | (Math.round(g) << 8) | Math.round(r);
  });
}

export class Pictures {
  #elements;
  #rate;
  #analysis;
  #samples;
  #span;
  #image = new OffscreenCanvas(1, BANDS);
  #waiting = false;

  /**
   * @param {{waveform: HTMLCanvasElement, spectrogram: HTMLCanvasElement, playhead: HTMLElement, span: HTMLElement}} elements
   * @param {number} rate samples a second
   */
  constructor(elements, rate) {
    this.#elements = elements;
    this.#rate = rate;
    this.clear();
    new ResizeObserver(() => this.#redraw()).observe(elements.waveform);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#redraw());
  }

  /** Forgets the speech that was shown. */
  clear() {
    this.#analysis = new Analysis(this.#rate);
    this.#samples = 0;
    this.#span = FIRST_SPAN;
    this.showPosition(null);
    this.#redraw();
  }

  /** @param {Float32Array} samples that follow those shown */
  push(samples) {
    this.#analysis.push(samples);
    this.#samples += samples.length;
    while (this.#span < this.#samples / this.#rate) this.#span *= 2;
    this.#redraw();
  }

  /** Lets what is there fill the axis: no more will come. */
  finish() {
    if (this.#samples) this.#span = this.#samples / this.#rate;
    this.#redraw();
  }

  /** @param {number | null} seconds into the speech, or null to hide the line */
  showPosition(seconds) {
    const { playhead, waveform } = this.#elements;
    playhead.hidden = seconds === null;
    if (seconds === null) return;
    const x = Math.min(seconds / this.#span, 1) * (waveform.clientWidth - 2);
    playhead.style.transform = `translateX(${x.toFixed(1)}px)`;
  }

  /** Draws at the next frame, once however often it is called. */
  #redraw() {
    if (this.#waiting) return;
    this.#waiting = true;
    requestAnimationFrame(() => {
      this.#waiting = false;
      const style = getComputedStyle(document.documentElement);
      this.#drawWaveform(style);
      this.#drawSpectrogram(style);
      this.#elements.span.textContent = `${Number(this.#span.toFixed(1))} s`;
    });
  }

  /** The context of a canvas fitted to the screen's pixels, and cleared. */
  #fit(canvas) {
    canvas.width = Math.max(1, Math.round(canvas.clientWidth * devicePixelRatio));
    canvas.height = Math.max(1, Math.round(canvas.clientHeight * devicePixelRatio));
    return canvas.getContext("2d");
  }

  #drawWaveform(style) {
    const { waveform: canvas } = this.#elements;
    const { low, high, hop, columns } = this.#analysis;
    const context = this.#fit(canvas);
    const middle = canvas.height / 2;
    const perPixel = (this.#span * this.#rate) / hop / canvas.width;
    let loudest = 0.1;
    for (let i = 0; i < columns; i++) loudest = Math.max(loudest, high[i], -low[i]);
    const scale = (0.95 * middle) / loudest;
    context.fillStyle = style.getPropertyValue("--line");
    context.fillRect(0, Math.round(middle), canvas.width, 1);
    context.fillStyle = style.getPropertyValue("--wave");
    for (let x = 0; x < columns / perPixel; x++) {
      const first = Math.floor(x * perPixel);
      const last = Math.min(columns, Math.max(first + 1, Math.floor((x + 1) * perPixel)));
      let [bottom, top] = [0, 0];
      for (let i = first; i < last; i++) {
        bottom = Math.min(bottom, low[i]);
        top = Math.max(top, high[i]);
      }
      context.fillRect(x, middle - top * scale, 1, Math.max(1, (top - bottom) * scale));
    }
  }

  #drawSpectrogram(style) {
    const { spectrogram: canvas } = this.#elements;
    const { levels, hop, columns } = this.#analysis;
    const context = this.#fit(canvas);
    if (columns === 0) return;
    const colours = shades(style);
    const data = new ImageData(columns, BANDS);
    const pixels = new Uint32Array(data.data.buffer);
    for (let column = 0; column < columns; column++) {
      for (let band = 0; band < BANDS; band++) {
        pixels[(BANDS - 1 - band) * columns + column] = colours[levels[column * BANDS + band]];
      }
    }
    this.#image.width = columns;
    this.#image.getContext("2d").putImageData(data, 0, 0);
    const width = (columns * hop * canvas.width) / (this.#span * this.#rate);
    context.drawImage(this.#image, 0, 0, width, canvas.height);
  }
}
