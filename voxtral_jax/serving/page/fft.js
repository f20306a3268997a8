/** Power spectra of real signals, by a radix-2 transform. */
export class Fft {
  #real;
  #imaginary;
  #cosine;
  #sine;
  #order;

  /** @param {number} size a power of two */
  constructor(size) {
    this.size = size;
    this.#real = new Float32Array(size);
    this.#imaginary = new Float32Array(size);
    this.#cosine = Float32Array.from({ length: size / 2 }, (_, k) => Math.cos((2 * Math.PI * k) / size));
    this.#sine = Float32Array.from({ length: size / 2 }, (_, k) => -Math.sin((2 * Math.PI * k) / size));
    const bits = Math.log2(size);
    this.#order = Uint32Array.from({ length: size }, (_, i) => {
      let reversed = 0;
      for (let bit = 0; bit < bits; bit++) reversed |= ((i >> bit) & 1) << (bits - 1 - bit);
      return reversed;
    });
  }

  /**
   * Squared magnitudes of frequencies 0 to half the sampling rate.
   * @param {Float32Array} signal of `size` samples
   * @param {Float32Array} power of `size / 2 + 1` values, overwritten
   */
  power(signal, power) {
    const [real, imaginary, size] = [this.#real, this.#imaginary, this.size];
    for (let i = 0; i < size; i++) real[i] = signal[this.#order[i]];
    imaginary.fill(0);
    for (let half = 1; half < size; half *= 2) {
      const step = size / (2 * half);
      for (let start = 0; start < size; start += 2 * half) {
        for (let k = 0; k < half; k++) {
          const [even, odd] = [start + k, start + k + half];
          const [c, s] = [this.#cosine[k * step], this.#sine[k * step]];
          const r = real[odd] * c - imaginary[odd] * s;
          const i = real[odd] * s + imaginary[odd] * c;
          real[odd] = real[even] - r;
          imaginary[odd] = imaginary[even] - i;
          real[even] += r;
          imaginary[even] += i;
        }
      }
    }
    for (let k = 0; k <= size / 2; k++) power[k] = real[k] ** 2 + imaginary[k] ** 2;
  }
}
