"""LLVM instructions as numba intrinsics.

numba's on-disk cache does not track this file: delete ``__pycache__`` after changing one.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_I32 = ir.IntType(32)
#: Rows that are multiplied with a panel together.
PANEL_ROWS = 8


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
        numbers = _load(builder, place, 64)
        level = _splat(builder, arguments[2], vector)
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

    ``numbers`` is contiguous and its length a multiple of 64.
    """

    def code(context, builder, signature, arguments):
        wide = ir.VectorType(_I32, 32)

        def load(start, first):
            places = [builder.add(first, first.type(32 * half)) for half in range(2)]
            parts = [_load(builder, builder.gep(start, [place]), 32) for place in places]
            return [builder.sext(part, wide) for part in parts]

        return _dot_i16(context, builder, signature, arguments, load)

    return types.int32(weights, at, numbers), code


@intrinsic
def dot_u4_i16(typing_context, weights, at, numbers):
    """Dot product in int32 of entries of 4 bits, 0…15, and int16 ``numbers``.

    ``numbers`` is contiguous and its length a multiple of 64; 32 bytes from ``weights[at]`` on hold
    64 entries: the first 32 in their low halves, the others in their high halves.
    """

    def code(context, builder, signature, arguments):
        byte, wide = ir.IntType(8), ir.VectorType(_I32, 32)
        four, low = (ir.Constant(ir.VectorType(byte, 32), [number] * 32) for number in (4, 15))

        def load(start, first):
            pairs = _load(builder, builder.gep(start, [builder.lshr(first, first.type(1))]), 32)
            parts = builder.and_(pairs, low), builder.lshr(pairs, four)
            return [builder.zext(part, wide) for part in parts]

        return _dot_i16(context, builder, signature, arguments, load)

    return types.int32(weights, at, numbers), code


def _dot_i16(context, builder, signature, arguments, load):
    """Dot product of int16 numbers and of what ``load(start, first)`` gives: for the 64 from the
    number ``first`` on, two vectors of 32 int32.

    Products are added in neighbouring pairs, the pattern that LLVM turns into multiply-add
    instructions (``pmaddwd``).
    """
    wide, half = ir.VectorType(_I32, 32), ir.VectorType(_I32, 16)
    start = _address(context, builder, signature, arguments)
    query = context.make_array(signature.args[2])(context, builder, arguments[2])
    count = query.nitems
    sums = [cgutils.alloca_once_value(builder, ir.Constant(half, [0] * 16)) for _ in range(2)]
    with cgutils.for_range_slice(builder, count.type(0), count, count.type(64)) as (first, _):
        for part, (total, weights) in enumerate(zip(sums, load(start, first), strict=True)):
            place = builder.add(first, count.type(32 * part))
            loaded = _load(builder, builder.gep(query.data, [place]), 32)
            products = builder.mul(weights, builder.sext(loaded, wide))
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


@intrinsic
def panel_products(
    typing_context, rows, at, stride, panels, start, pairs, out, place, width, scale
):
    """Multiply eight int16 rows with a panel of 16 latents in int32; store float32 times ``scale``.

    Equal to ``out[place + width·r + l] = scale · Σ_t rows[at + stride·r + t] · latent_l[t]`` for r
    of 0…7 and l of 0…15, t over 2·``pairs`` numbers. A panel begins at ``panels[start]`` and holds
    two numbers of each latent in turn: (pairs, 16, 2). Products are added in neighbouring pairs,
    the pattern that LLVM turns into multiply-add instructions (``pmaddwd``).
    """

    def code(context, builder, signature, arguments):
        short, wide = ir.VectorType(ir.IntType(16), 16), ir.VectorType(_I32, 16)
        half, real = ir.VectorType(_I32, 8), ir.VectorType(ir.FloatType(), 8)

        def entry(pointer):
            pair = builder.load(builder.bitcast(pointer, _I32.as_pointer()))
            pair.align = 2
            return builder.bitcast(_splat(builder, pair, half), short)

        def add(total, pair, latents):
            products = builder.mul(builder.sext(pair, wide), builder.sext(latents, wide))
            even = builder.shuffle_vector(products, products, _places(range(0, 16, 2)))
            odd = builder.shuffle_vector(products, products, _places(range(1, 16, 2)))
            return builder.add(total, builder.add(even, odd))

        def finish(total):
            return builder.fmul(builder.sitofp(total, real), _splat(builder, arguments[9], real))

        nothing = ir.Constant(half, [0] * 8)
        return _panel(
            context, builder, signature, arguments, 16, nothing, entry, add, finish, step=2
        )

    return types.void(rows, at, stride, panels, start, pairs, out, place, width, scale), code


@intrinsic
def panel_matmul(typing_context, rows, at, stride, panels, start, depth, out, place, width):
    """Multiply eight float32 rows with a panel of 16 columns.

    Equal to ``out[place + width·r + l] = Σ_t rows[at + stride·r + t] · column_l[t]`` for r of 0…7
    and l of 0…15, t over ``depth`` numbers. A panel begins at ``panels[start]``: (depth, 16). Each
    sum is a chain of fused multiply-adds in the order of t, whatever the other rows are.
    """

    def code(context, builder, signature, arguments):
        lanes = 16 if _has_avx512(context) else 8
        real = ir.VectorType(ir.FloatType(), lanes)
        name = f"llvm.fma.v{lanes}f32"
        multiply_add = builder.module.globals.get(name) or ir.Function(
            builder.module, ir.FunctionType(real, [real] * 3), name
        )

        def entry(pointer):
            return _splat(builder, builder.load(pointer), real)

        def add(total, factor, column):
            return builder.call(multiply_add, [factor, column, total])

        nothing = ir.Constant(real, [0.0] * lanes)
        return _panel(context, builder, signature, arguments, 16, nothing, entry, add)

    return types.void(rows, at, stride, panels, start, depth, out, place, width), code


@intrinsic
def panel_min_plus(typing_context, costs, at, stride, panels, start, depth, out, place, width):
    """Min-plus product of eight int16 rows with a panel of 32 columns: a step of Viterbi's search.

    Equal to ``out[place + width·r + l] = min_t costs[at + stride·r + t] + column_l[t]`` for r of
    0…7 and l of 0…31, t over ``depth`` numbers; no sum may be beyond int16. A panel begins at
    ``panels[start]``: (depth, 32).
    """

    def code(context, builder, signature, arguments):
        lanes = 32 if _has_avx512(context) else 16
        words = ir.VectorType(ir.IntType(16), lanes)

        def entry(pointer):
            return _splat(builder, builder.load(pointer), words)

        def add(least, cost, column):
            total = builder.add(cost, column)
            return builder.select(builder.icmp_signed("<", total, least), total, least)

        nothing = ir.Constant(words, [32767] * lanes)
        return _panel(context, builder, signature, arguments, 32, nothing, entry, add)

    return types.void(costs, at, stride, panels, start, depth, out, place, width), code


def _has_avx512(context):
    """Whether code is for a processor with 32 vector registers, and ones of 512 bits."""
    return "+avx512vl" in context.codegen().magic_tuple()[2].split(",")


def _panel(
    context,
    builder,
    signature,
    arguments,
    columns,
    nothing,
    entry,
    add,
    finish=lambda total: total,
    step=1,
):
    """Build the code of the intrinsics above, whose first nine arguments mean the same.

    Args:
        columns: columns of a panel; a vector of sums is of as many as ``nothing`` has lanes.
        nothing: what sums begin with.
        entry: builds a vector of an entry of a row from its address.
        add: builds what sums become from them, an entry and a vector of the panel.
        finish: builds the results of sums.
        step: numbers of an entry, in rows and panels.
    """
    at, stride, start, depth, place, width = (arguments[i] for i in (1, 2, 4, 5, 7, 8))
    number, lanes = depth.type, nothing.type.count
    # Sums fill half of the registers: 32 of AVX-512, or 16.
    together = PANEL_ROWS if _has_avx512(context) else PANEL_ROWS // 2

    def address(which, *terms):
        """Of the entry of argument ``which`` whose number is the sum of terms: numbers, or two to
        multiply."""
        array = context.make_array(signature.args[which])(context, builder, arguments[which])
        offset = number(0)
        for term in terms:
            term = builder.mul(*term) if isinstance(term, tuple) else term
            offset = builder.add(offset, term)
        return builder.gep(array.data, [offset])

    for first in range(0, PANEL_ROWS, together):
        rows, vectors = range(first, first + together), range(columns // lanes)
        sums = [[cgutils.alloca_once_value(builder, nothing) for _ in vectors] for _ in rows]
        with cgutils.for_range(builder, depth) as loop:
            panel_row = []
            for v in vectors:
                offset = (loop.index, number(columns * step)), number(lanes * step * v)
                panel_row.append(_load(builder, address(3, start, *offset), lanes * step))
            for r, own in zip(rows, sums, strict=True):
                row = (stride, number(r)), (loop.index, number(step))
                factor = entry(address(0, at, *row))
                for total, vector in zip(own, panel_row, strict=True):
                    builder.store(add(builder.load(total), factor, vector), total)
        for r, own in zip(rows, sums, strict=True):
            for v, total in enumerate(own):
                result = finish(builder.load(total))
                to = address(6, place, (width, number(r)), number(lanes * v))
                stored = builder.store(result, builder.bitcast(to, result.type.as_pointer()))
                stored.align = 1
    return context.get_dummy_value()


def _load(builder, address, count):
    """Load ``count`` numbers as a vector, aligned or not."""
    kind = ir.VectorType(address.type.pointee, count).as_pointer()
    loaded = builder.load(builder.bitcast(address, kind))
    loaded.align = 1
    return loaded


def _splat(builder, number, kind):
    """A vector with one number in each lane."""
    nothing = ir.Constant(kind, ir.Undefined)
    one = builder.insert_element(nothing, number, _I32(0))
    return builder.shuffle_vector(one, nothing, _places([0] * kind.count))


def _places(numbers):
    numbers = list(numbers)
    return ir.Constant(ir.VectorType(_I32, len(numbers)), numbers)


def _address(context, builder, signature, arguments):
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    return builder.gep(array.data, [arguments[1]])
