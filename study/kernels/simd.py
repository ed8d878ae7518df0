"""A SIMD value type for numba: 16 × float32 or 8 × float64, one replicate per lane.

Kernels use it as if it were a scalar. LLVM translates each operation into the instructions that the processor has (AVX-512,
AVX2, …). Nothing is contracted and nothing is reassociated, so every lane has the bits that NumPy's scalar operations give.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.core.cgutils import get_or_insert_function, unpack_tuple
from numba.core.extending import intrinsic, models, overload, register_model
from numpy.typing import DTypeLike, NDArray

VECTOR_BYTES = 64


def lanes_of(dtype: DTypeLike) -> int:
    """How many replicates a vector holds: 16 in float32, 8 in float64."""
    return VECTOR_BYTES // np.dtype(dtype).itemsize


def zero_rows(count: int, dtype: DTypeLike) -> NDArray[Any]:
    """Zeros (count, lanes), aligned to a vector's size: each row is one vector and one cache line."""
    size = np.dtype(dtype).itemsize
    whole = np.zeros(count * lanes_of(dtype) + lanes_of(dtype), dtype)
    skipped = (-whole.ctypes.data % VECTOR_BYTES) // size
    return whole[skipped : skipped + count * lanes_of(dtype)].reshape(count, lanes_of(dtype))


class Vector(types.Type):
    """numba's type of one row of lanes."""

    def __init__(self, dtype: types.Float) -> None:
        self.dtype = dtype
        self.lanes = VECTOR_BYTES * 8 // dtype.bitwidth
        super().__init__(name=f"Vector({dtype}, {self.lanes})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, _llvm(vector))


def _llvm(vector: Vector) -> ir.VectorType:
    return ir.VectorType(ir.FloatType() if vector.dtype == types.float32 else ir.DoubleType(), vector.lanes)


def _intrinsic(function: Any) -> Any:
    """numba's `intrinsic`, untyped: a type checker would expect the typing context among the arguments of a call."""
    return intrinsic(function)


def _address(context: Any, builder: Any, signature: Any, array: Any, row: Any) -> Any:
    """The address of a row of a C-contiguous (rows, lanes) array, as a pointer to a vector."""
    array_type, vector = signature.args[0], Vector(signature.args[0].dtype)
    data = context.make_array(array_type)(context, builder, array).data
    index = builder.mul(row, ir.Constant(row.type, vector.lanes))
    return builder.bitcast(builder.gep(data, [index]), _llvm(vector).as_pointer())


@_intrinsic
def load(typing: Any, array: Any, row: Any) -> Any:
    """Read a row of a (rows, lanes) array as a vector."""
    vector = Vector(array.dtype)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _address(context, builder, signature, *args)
        return builder.load(pointer, align=array.dtype.bitwidth // 8, typ=_llvm(vector))

    return vector(array, types.intp), generate


@_intrinsic
def store(typing: Any, array: Any, row: Any, value: Any) -> Any:
    """Write a vector to a row of a (rows, lanes) array."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _address(context, builder, signature, *args[:2])
        builder.store(args[2], pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), generate


@_intrinsic
def everywhere(typing: Any, scalar: Any) -> Any:
    """The vector that holds the scalar in every lane."""
    vector = Vector(scalar)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = _llvm(vector)
        first = builder.insert_element(ir.Constant(kind, ir.Undefined), args[0], ir.IntType(32)(0))
        mask = ir.Constant(ir.VectorType(ir.IntType(32), vector.lanes), None)
        return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), mask)

    return vector(scalar), generate


@_intrinsic
def gather(typing: Any, samples: Any, models: Any, chosen: Any, feature: Any) -> Any:
    """The vector of samples[models[lane], chosen[lane], feature]; samples (A, S, N), models and chosen int64 (lanes,)."""
    vector = Vector(samples.dtype)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, args[0])
        strides, whole = unpack_tuple(builder, array.strides, 3), ir.VectorType(ir.IntType(64), vector.lanes)

        def everywhere(number: Any) -> Any:
            first = builder.insert_element(ir.Constant(whole, ir.Undefined), number, ir.IntType(32)(0))
            mask = ir.Constant(ir.VectorType(ir.IntType(32), vector.lanes), None)
            return builder.shuffle_vector(first, ir.Constant(whole, ir.Undefined), mask)

        def of_lanes(numbers: Any, kind: Any) -> Any:
            data = context.make_array(kind)(context, builder, numbers).data
            return builder.load(builder.bitcast(data, whole.as_pointer()), align=8, typ=whole)

        start = builder.add(builder.ptrtoint(array.data, ir.IntType(64)), builder.mul(args[3], strides[2]))
        offsets = builder.mul(of_lanes(args[1], signature.args[1]), everywhere(strides[0]))
        offsets = builder.add(offsets, builder.mul(of_lanes(args[2], signature.args[2]), everywhere(strides[1])))
        pointers = builder.inttoptr(builder.add(offsets, everywhere(start)), ir.VectorType(array.data.type, vector.lanes))
        mask = ir.VectorType(ir.IntType(1), vector.lanes)
        kind = ir.FunctionType(_llvm(vector), [pointers.type, ir.IntType(32), mask, _llvm(vector)])
        name = f"llvm.masked.gather.v{vector.lanes}f{samples.dtype.bitwidth}.v{vector.lanes}p0"
        function = get_or_insert_function(builder.module, kind, name)
        size = ir.IntType(32)(samples.dtype.bitwidth // 8)
        all_lanes = ir.Constant(mask, [ir.IntType(1)(1)] * vector.lanes)
        return builder.call(function, [pointers, size, all_lanes, ir.Constant(_llvm(vector), ir.Undefined)])

    return vector(samples, models, chosen, types.intp), generate


@_intrinsic
def prefetch(typing: Any, samples: Any, model: Any, sample: Any) -> Any:
    """Prefetch the first and the last number of samples[model, sample] into the cache; samples (A, S, N) contiguous."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, args[0])
        strides = unpack_tuple(builder, array.strides, 3)
        offset = builder.add(builder.mul(args[1], strides[0]), builder.mul(args[2], strides[1]))
        start, whole = builder.bitcast(array.data, ir.IntType(8).as_pointer()), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [start.type, whole, whole, whole])
        function = get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        last = builder.sub(builder.add(offset, strides[1]), offset.type(1))
        for place in (offset, last):
            builder.call(function, [builder.gep(start, [place]), whole(0), whole(2), whole(1)])
        return context.get_dummy_value()

    return types.void(samples, types.intp, types.intp), generate


def _of_llvm(name: str) -> Any:
    """An LLVM intrinsic that takes and returns one vector."""

    @_intrinsic
    def function(typing: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            suffix = f"v{value.lanes}f{value.dtype.bitwidth}"
            kind = ir.FunctionType(_llvm(value), [_llvm(value)])
            return builder.call(get_or_insert_function(builder.module, kind, f"{name}.{suffix}"), args)

        return value(value), generate

    return function


square_root = _of_llvm("llvm.sqrt")
absolute = _of_llvm("llvm.fabs")


def _choice(comparison: str) -> Any:
    """(a, b, then, otherwise) → `then` in the lanes where the comparison of a with b holds; it never does for NaN."""

    @_intrinsic
    def function(typing: Any, a: Any, b: Any, then: Any, otherwise: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.select(builder.fcmp_ordered(comparison, args[0], args[1]), args[2], args[3])

        return then(a, b, then, otherwise), generate

    return function


where_less = _choice("<")
where_at_most = _choice("<=")


def _arithmetic(operation: str) -> Any:
    @_intrinsic
    def function(typing: Any, a: Any, b: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return getattr(builder, operation)(*args)

        return a(a, b), generate

    return function


def _overloaded(operator_function: Any, operation: str) -> None:
    function = _arithmetic(operation)

    @overload(operator_function)
    def implement(a: Any, b: Any) -> Any:
        def apply(a: Any, b: Any) -> Any:
            return function(a, b)

        return apply if isinstance(a, Vector) and a == b else None


for _operator, _operation in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _overloaded(_operator, _operation)
