#!/usr/bin/env bash
# The model in the box, from the packed corpus to voxtral_jax/assets: the same command goes on where
# it was stopped. On a GPU, give the codec its discriminators and longer training:
#   CODEC="losses.feature_matching=1 run.steps=40000 data.batch_size=64" \
#   SPEECH="data.batch_size=64 losses.dtype=bfloat16" bash scripts/train_nano.sh
# (untried there). More recordings (data/nano/README.md) in a manifest:
#   MORE=corpus/audio/train.jsonl bash scripts/train_nano.sh
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
data=${DATA:-data/nano}
runs=${RUNS:-runs/nano}

# What the encoder is to hear, and what of it follows from codes: that the decoder is to give back.
# At other speeds, recordings are those of other speakers. Needs pyworld, of
# scripts/corpus/requirements.txt.
lock() {
    $python scripts/corpus/lock.py "$data/train" "$runs/$1/train" \
        --speed 1 --speed 0.88 --speed 1.13 "${@:2}"
    $python scripts/corpus/lock.py "$data/validation" "$runs/$1/validation" "${@:2}"
    if [[ -n ${MORE:-} ]]; then
        $python scripts/corpus/lock.py "$MORE" "$runs/$1/train-more" "${@:2}"
    fi
}
lock locked
train="$runs/locked/train*/lines-*.jsonl"
validation="$runs/locked/validation/lines-*.jsonl"
detail="$runs/detail.safetensors"
[[ -e $detail ]] || $python scripts/corpus/detail.py "$train" "$detail"
lock told --detail "$detail"

# Overrides are words on purpose.
# shellcheck disable=SC2086
$python train.py codec --config configs/nano/codec.toml run.out="$runs/codec" \
    data.manifest="$train" data.validation="$validation" ${CODEC:-}
# shellcheck disable=SC2086
$python train.py codec --config configs/nano/encoder.toml start="$runs/codec" run.out="$runs/encoder" \
    data.manifest="$train" data.validation="$validation" ${ENCODER:-}
decode() {
    # shellcheck disable=SC2086
    $python train.py codec --config configs/nano/decoder.toml start="$1" run.out="$2" \
        data.manifest="$runs/told/train*/lines-*.jsonl" \
        data.validation="$runs/told/validation/lines-*.jsonl" "${@:3}" ${DECODER:-}
}
decode "$runs/encoder" "$runs/phases" losses.cycles=1.6 losses.mel=4.0
decode "$runs/phases" "$runs/decoder"
tokenize() {
    $python train.py tokenize --config configs/nano/tokenize.toml codec="$runs/encoder" \
        manifest="$1" out="$runs/codes/$2" most_broken=1.0 exact=true "${@:3}"
}
tokenize "$train" train heard="$runs/codes/heard"   # voice prompts are what the encoder hears
tokenize "$validation" validation
# shellcheck disable=SC2086
$python train.py speech --config configs/nano/speech.toml run.out="$runs/speech" \
    codec="$runs/encoder" data.codes="$runs/codes/train" data.prompts="$runs/codes/heard" \
    data.validation="$runs/codes/validation" ${SPEECH:-}
$python train.py export --config configs/nano/export.toml speech="$runs/speech" \
    codec="$runs/decoder" out=voxtral_jax/assets/nano presets="$data/presets"
