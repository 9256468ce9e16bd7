"""The layer's two kernels for CPUs with AVX-512 and its bfloat16 product, in C++; one file each, optional.

`library` compiles and loads them. Where that is not possible, `kernels.experts` and `kernels.combine` run torch.
"""
