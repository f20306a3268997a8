"""How tests are compiled: each program runs a few times, so quick compilation beats quick code."""

QUICK = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)
"""`XLA_FLAGS` by which most programs compile in a third of the time."""
