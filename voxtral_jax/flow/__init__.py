"""Semantic head and flow matching: from the decoder's hidden state to a frame of codes."""

from voxtral_jax.flow.model import FlowHead
from voxtral_jax.flow.sampling import SOLVERS, Sampler, sample_flow, time_table

__all__ = ["SOLVERS", "FlowHead", "Sampler", "sample_flow", "time_table"]
