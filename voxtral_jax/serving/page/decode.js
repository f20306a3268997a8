/** Brings recordings that the server does not read (a phone's M4A, WebM, a video) to WAV. */
import { toInteger, wav } from "./wav.js";

const READ_BY_THE_SERVER = /\.(wav|flac|ogg|opus|mp3|aiff?)$/i;
const RATE = 48_000;

/**
 * The recording in a format that the server reads, decoded by the browser if need be.
 * @param {File} file
 * @returns {Promise<File>} of the same name; rejects if the browser cannot decode it either
 */
export async function readable(file) {
  if (READ_BY_THE_SERVER.test(file.name)) return file;
  const sound = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(await file.arrayBuffer());
  const channels = Array.from({ length: sound.numberOfChannels }, (_, i) => sound.getChannelData(i));
  const mono = Float32Array.from(
    { length: sound.length },
    (_, i) => channels.reduce((sum, channel) => sum + channel[i], 0) / channels.length,
  );
  return new File([wav([toInteger(mono)], sound.sampleRate)], file.name, { type: "audio/wav" });
}
