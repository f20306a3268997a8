# %% [markdown]
# # Voxtral TTS in JAX: quickstart
#
# Speech, cloned voices, streams and batches with the small model that comes with the package:
# nothing is downloaded but the package itself, and two CPU cores are enough. The same calls run the
# released 4B model: `vx.load_model("mistralai/Voxtral-4B-TTS-2603")`.

# %% [markdown]
# On Colab, the next cell installs the package; where it is installed already, it does nothing.

# %%
REPOSITORY = ""  # @param {type:"string"} on Colab: the git address that this notebook comes from

import importlib.util
import subprocess
import sys

if importlib.util.find_spec("voxtral_jax") is None:
    assert REPOSITORY, "set REPOSITORY above to the git address of voxtral-jax, and run this again"
    wanted = f"voxtral-jax[notebook] @ git+{REPOSITORY}"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", wanted], check=True)

# %% [markdown]
# ## Speak
#
# The first call compiles the model's programs, which takes a while. They are kept on disk for the
# next time.

# %%
import voxtral_jax as vx

vx.enable_compilation_cache()
model = vx.load_model()
speech = vx.synthesize(model, "Hello there. This voice runs on your own machine.")
speech

# %%
print(f"{speech.seconds:.1f} s of audio in {speech.timings.total:.1f} s")
for name, about in sorted(model.abouts.items()):
    print(f"{name:20} {about.language}  {about.gender:7} {about.character}")

# %% [markdown]
# ## Clone
#
# Someone who was recorded for LibriSpeech (utterance 6147-34605-0000, CC BY 4.0), of whom the model
# never heard a word. Name a file of your own in place of it: 3 to 30 s, one speaker, little noise.

# %%
from importlib.resources import files

from IPython.display import Audio, display

recording = str(files("voxtral_jax") / "assets" / "reader.flac")
display(Audio(recording))
voice = vx.make_voice(model, recording)
vx.synthesize(model, "I never said this sentence, yet it sounds like me.", voice=voice, seed=1)

# %% [markdown]
# `voice.save("someone.safetensors")` keeps the voice; `vx.Voice.load` brings it back.
#
# ## Another language
#
# Any voice speaks any of nine languages. The language is detected; `language=` names it for texts
# that are too short to tell.

# %%
vx.synthesize(model, "Guten Morgen! Heute scheint die Sonne.", voice=voice)

# %% [markdown]
# ## Many at once
#
# A list is spoken as one batch, each text with its own voice, seed and language. Without a voice,
# the default preset of each text's language speaks.

# %%
texts = {"en": "Good evening.", "es": "Buenas noches.", "fr": "Bonsoir.", "ja": "こんばんは。"}
for one in vx.synthesize(model, list(texts.values()), language=list(texts)):
    display(one)

# %% [markdown]
# ## Stream
#
# Chunks come while the speech is made; together they are what `synthesize` returns.

# %%
text = "A stream begins to play long before its last word has been made."
chunks = list(vx.stream(model, text, voice=voice))
for number, chunk in enumerate(chunks[:4]):
    after = chunk.timings.total
    print(f"chunk {number}: {chunk.seconds:.2f} s of audio, {after:.2f} s after the call")

# %% [markdown]
# ## Look
#
# The waveform, its mel spectrogram, and the codes that it was decoded from: one column for each
# 80 ms, the semantic code and 36 acoustic ones.

# %%
import librosa
import matplotlib.pyplot as plt
import numpy as np

samples, rate, end = speech.samples, speech.sample_rate, speech.seconds
mel = librosa.feature.melspectrogram(y=samples, sr=rate, n_fft=1024, hop_length=256, n_mels=80)
figure, (wave, spectrum, semantic, acoustic) = plt.subplots(
    4, 1, figsize=(9, 8), sharex=True, layout="constrained", height_ratios=[2, 3, 1, 3]
)
wave.plot(np.arange(len(samples)) / rate, samples, linewidth=0.4)
wave.set(title="waveform", xlim=(0, end))
level = librosa.power_to_db(mel, ref=np.max, top_db=80)
spectrum.imshow(level, origin="lower", aspect="auto", extent=(0, end, 0, 80), cmap="magma")
spectrum.set(title="mel spectrogram", ylabel="mel band")
semantic.step(np.arange(len(speech.codes)) / 12.5, speech.codes[:, 0], where="post")
semantic.set(title="semantic code")
acoustic.imshow(speech.codes[:, 1:].T, origin="lower", aspect="auto", extent=(0, end, 0.5, 36.5))
acoustic.set(title="acoustic codes", ylabel="codebook", xlabel="seconds")
plt.show()
