"""Layers that the codec, the decoder and the flow share."""
