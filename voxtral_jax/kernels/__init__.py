"""Pallas kernels, each with a plain jnp twin.

Every operation takes `kernels`: "jnp" (plain), "pallas" (compiled by Triton on a GPU) or
"interpret" (the Pallas kernel run step by step, for tests without a GPU).
"""

from voxtral_jax.kernels.elementwise import KERNELS, default_kernels

__all__ = ["KERNELS", "default_kernels"]
