"""Environment variables that decide last bits of numbers, or more: recorded with every result."""

from __future__ import annotations

from collections.abc import Mapping

ARITHMETIC = (
    # which code the processor runs; how many threads share a sum, past compute.threads
    "ATEN_CPU_CAPABILITY",
    "DNNL_DEFAULT_FPMATH_MODE",
    "DNNL_MAX_CPU_ISA",
    "GLIBC_TUNABLES",
    "MKL_CBWR",
    "MKL_DEBUG_CPU_TYPE",
    "MKL_DISABLE_FAST_MM",
    "MKL_DOMAIN_NUM_THREADS",
    "MKL_DYNAMIC",
    "MKL_ENABLE_INSTRUCTIONS",
    "NPY_DISABLE_CPU_FEATURES",
    "NPY_ENABLE_CPU_FEATURES",
    "OMP_DYNAMIC",
    "OMP_THREAD_LIMIT",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "OPENBLAS_CORETYPE",
    "TORCH_LINEAR_FLATTEN_3D",
    "TORCH_MKLDNN_MATMUL_MIN_DIM",
    "TORCH_MKLDNN_MATMUL_MIN_SIZE",
    # which library multiplies on a GPU, how exactly, and in which order several GPUs add
    "CUBLAS_EMULATE_DOUBLE_PRECISION",
    "CUBLAS_EMULATE_SINGLE_PRECISION",
    "CUBLAS_WORKSPACE_CONFIG",
    "DISABLE_ADDMM_CUDA_LT",
    "NCCL_ALGO",
    "NCCL_PROTO",
    "NVIDIA_TF32_OVERRIDE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "TORCH_BLAS_PREFER_CUBLASLT",
    "TORCH_BLAS_PREFER_HIPBLASLT",
    "TORCH_CUDNN_USE_HEURISTIC_MODE_B",
    "TORCH_CUDNN_V8_API_DISABLED",
    "TORCH_LINALG_PREFER_CUSOLVER",
    "TORCH_LINALG_PREFER_HIPSOLVER",
    "TORCH_ROCM_FA_PREFER_CK",
    # which kernels transformers takes
    "FLASH_ATTENTION_DETERMINISTIC",
    "TRANSFORMERS_DISABLE_DEEPGEMM_LINEAR",
    "USE_HUB_KERNELS",
)
"""Read by libraries that compute. What decides no bit is not here: PYTHONHASHSEED,
TOKENIZERS_PARALLELISM, OMP_NUM_THREADS and MKL_NUM_THREADS (`compute.threads` is set over them)."""
OURS = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
"""What `prepare_compute` sets where it is not given, in the middle of a stage. Written here again:
stages that compute nothing do not load it (tests/run/test_provenance.py holds the two together)."""


def arithmetic(environment: Mapping[str, str]) -> dict[str, str]:
    """Those that are given, with their values. (vLLM's own never reach a server of ours; those of
    `vllm.variables` are parameters.)"""
    return {
        name: environment[name]
        for name in ARITHMETIC
        if name in environment and environment[name] != OURS.get(name)
    }
