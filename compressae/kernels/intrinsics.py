"""LLVM instructions as numba intrinsics.

numba's on-disk cache does not track this file: delete ``__pycache__`` after changing one.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_I32 = ir.IntType(32)


@intrinsic
def load_u32(typing_context, data, at):
    """Load a little-endian uint32 from uint8 ``data`` at byte ``at``, aligned or not."""

    def code(context, builder, signature, arguments):
        place = _address(context, builder, signature, arguments)
        word = builder.load(builder.bitcast(place, _I32.as_pointer()))
        word.align = 1
        return word

    return types.uint32(data, at), code


@intrinsic
def prefetch(typing_context, data, at):
    """Prefetch the cache line of ``data[at]``; the address may lie outside the array."""

    def code(context, builder, signature, arguments):
        byte = ir.IntType(8).as_pointer()
        place = builder.bitcast(_address(context, builder, signature, arguments), byte)
        kind = ir.FunctionType(ir.VoidType(), [byte, _I32, _I32, _I32])
        name = "llvm.prefetch.p0"
        function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
        builder.call(function, [place, _I32(0), _I32(2), _I32(1)])  # Read, L2, data cache.
        return context.get_dummy_value()

    return types.void(data, at), code


@intrinsic
def at_least(typing_context, data, at, least):
    """Compare 64 numbers with a threshold: bit i of the uint64 is ``data[at + i] >= least``.

    ``least`` has the array's dtype.
    """

    def code(context, builder, signature, arguments):
        vector = ir.VectorType(arguments[2].type, 64)
        place = _address(context, builder, signature, arguments)
        numbers = builder.load(builder.bitcast(place, vector.as_pointer()))
        numbers.align = 1
        nothing = ir.Constant(vector, ir.Undefined)
        one = builder.insert_element(nothing, arguments[2], _I32(0))
        first = ir.Constant(ir.VectorType(_I32, 64), [0] * 64)
        level = builder.shuffle_vector(one, nothing, first)
        whole = isinstance(signature.args[0].dtype, types.Integer)
        compare = builder.icmp_signed if whole else builder.fcmp_ordered
        return builder.bitcast(compare(">=", numbers, level), ir.IntType(64))

    return types.uint64(data, at, least), code


@intrinsic
def lowest_bit(typing_context, word):
    """Index of the lowest set bit of a nonzero uint64 (count trailing zeros)."""

    def code(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.IntType(1)(1))

    return types.uint64(word), code


@intrinsic
def count_bits(typing_context, word):
    """Count the set bits of a uint64 (popcount)."""

    def code(context, builder, signature, arguments):
        return builder.ctpop(arguments[0])

    return types.uint64(word), code


@intrinsic
def dot_i8_i16(typing_context, weights, at, numbers):
    """Dot product Σ_j weights[at + j]·numbers[j] in int32, of int8 weights and int16 ``numbers``.

    ``numbers`` is contiguous and its length a multiple of 64. Products are added in neighbouring
    pairs, the pattern that LLVM turns into multiply-add instructions (``pmaddwd``).
    """

    def code(context, builder, signature, arguments):
        wide, half = ir.VectorType(_I32, 32), ir.VectorType(_I32, 16)
        kinds = [ir.VectorType(ir.IntType(bits), 32).as_pointer() for bits in (8, 16)]
        start = _address(context, builder, signature, arguments)
        query = context.make_array(signature.args[2])(context, builder, arguments[2])
        count = query.nitems
        sums = [cgutils.alloca_once_value(builder, ir.Constant(half, [0] * 16)) for _ in range(2)]
        step = count.type(64)
        with cgutils.for_range_slice(builder, count.type(0), count, step) as (first, _):
            for part, total in enumerate(sums):
                place = builder.add(first, count.type(32 * part))
                factors = []
                for data, kind in zip((start, query.data), kinds, strict=True):
                    loaded = builder.load(builder.bitcast(builder.gep(data, [place]), kind))
                    loaded.align = 1
                    factors.append(builder.sext(loaded, wide))
                products = builder.mul(*factors)
                even = builder.shuffle_vector(products, products, _places(range(0, 32, 2)))
                odd = builder.shuffle_vector(products, products, _places(range(1, 32, 2)))
                builder.store(builder.add(builder.load(total), builder.add(even, odd)), total)
        total = builder.add(*[builder.load(part) for part in sums])
        width = 16
        while width > 1:
            width //= 2
            low = builder.shuffle_vector(total, total, _places(range(width)))
            high = builder.shuffle_vector(total, total, _places(range(width, 2 * width)))
            total = builder.add(low, high)
        return builder.extract_element(total, _I32(0))

    return types.int32(weights, at, numbers), code


def _places(numbers):
    numbers = list(numbers)
    return ir.Constant(ir.VectorType(_I32, len(numbers)), numbers)


def _address(context, builder, signature, arguments):
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    return builder.gep(array.data, [arguments[1]])
