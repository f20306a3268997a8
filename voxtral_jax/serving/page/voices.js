/** The choice of language and of a voice that the server knows. */
import { deleteVoice, listVoices } from "./api.js";
import { $ } from "./dom.js";

/** What the small model and the released one speak together; the server refuses what its own does not. */
const LANGUAGES = ["ar", "de", "en", "es", "fr", "hi", "it", "ja", "ko", "nl", "pt", "zh"];
const names = new Intl.DisplayNames("en", { type: "language" });

let voices = [];

/** Fills in the languages, and describes a voice when it is chosen. */
export function setUp() {
  const options = LANGUAGES.map((code) => new Option(names.of(code), code));
  options.sort((a, b) => a.text.localeCompare(b.text));
  $("language").append(...options);
  $("voice").addEventListener("change", describe);
}

/**
 * Asks for the voices and fills them in, grouped by language; those that were kept here are a group of their own.
 * @param {string} chosen the voice to select
 */
export async function showVoices(chosen = $("voice").value) {
  voices = await listVoices();
  const groups = Map.groupBy(voices, groupOf);
  const sorted = [...groups].sort(([a], [b]) => a.localeCompare(b));
  const filled = sorted.map(([label, members]) => {
    const group = document.createElement("optgroup");
    group.label = label;
    group.append(...members.map((voice) => new Option(title(voice), voice.name)));
    return group;
  });
  $("voice").replaceChildren($("voice").options[0], ...filled);
  $("voice").value = voices.some(({ name }) => name === chosen) ? chosen : "";
  describe();
}

/** Deletes the chosen voice if the user means it. */
export async function deleteChosen() {
  const name = $("voice").value;
  if (!confirm(`Delete the voice ${name} for everyone?`)) return;
  await deleteVoice(name);
  await showVoices("");
  $("voice").focus();
}

function groupOf({ preset, language }) {
  if (!preset) return "Kept on this server";
  return language ? names.of(language) : "Any language";
}

const title = ({ name, character }) => (character ? `${name}: ${character}` : name);

/** Says below the choice what is known of the chosen voice. */
function describe() {
  const voice = voices.find(({ name }) => name === $("voice").value);
  $("voice-delete").hidden = !voice || voice.preset;
  const parts = voice && [
    voice.language && names.of(voice.language),
    voice.gender,
    voice.character,
    voice.default_for && `the default of ${names.of(voice.default_for)}`,
  ];
  $("voice-about").textContent = parts ? parts.filter(Boolean).join(", ") : "";
}
