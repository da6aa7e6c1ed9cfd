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

    ``numbers`` is contiguous and its length a multiple of 64.
    """

    def code(context, builder, signature, arguments):
        wide = ir.VectorType(_I32, 32)

        def load(start, first):
            places = [builder.add(first, first.type(32 * half)) for half in range(2)]
            return [builder.sext(_load_bytes(builder, start, place), wide) for place in places]

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
            pairs = _load_bytes(builder, start, builder.lshr(first, first.type(1)))
            parts = builder.and_(pairs, low), builder.lshr(pairs, four)
            return [builder.zext(part, wide) for part in parts]

        return _dot_i16(context, builder, signature, arguments, load)

    return types.int32(weights, at, numbers), code


def _load_bytes(builder, start, place):
    """Load 32 bytes as a vector, aligned or not."""
    kind = ir.VectorType(ir.IntType(8), 32).as_pointer()
    loaded = builder.load(builder.bitcast(builder.gep(start, [place]), kind))
    loaded.align = 1
    return loaded


def _dot_i16(context, builder, signature, arguments, load):
    """Dot product of int16 numbers and of what ``load(start, first)`` gives: for the 64 from the
    number ``first`` on, two vectors of 32 int32.

    Products are added in neighbouring pairs, the pattern that LLVM turns into multiply-add
    instructions (``pmaddwd``).
    """
    wide, half = ir.VectorType(_I32, 32), ir.VectorType(_I32, 16)
    kind = ir.VectorType(ir.IntType(16), 32).as_pointer()
    start = _address(context, builder, signature, arguments)
    query = context.make_array(signature.args[2])(context, builder, arguments[2])
    count = query.nitems
    sums = [cgutils.alloca_once_value(builder, ir.Constant(half, [0] * 16)) for _ in range(2)]
    with cgutils.for_range_slice(builder, count.type(0), count, count.type(64)) as (first, _):
        for part, (total, weights) in enumerate(zip(sums, load(start, first), strict=True)):
            place = builder.add(first, count.type(32 * part))
            loaded = builder.load(builder.bitcast(builder.gep(query.data, [place]), kind))
            loaded.align = 1
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
    """Multiply four int16 rows with a panel of 16 latents, in int32; store float32 times ``scale``.

    Equal to ``out[place + width·r + l] = scale · Σ_t rows[at + stride·r + t] · latent_l[t]`` for r
    of 0…3 and l of 0…15, t over 2·``pairs`` numbers. A panel begins at ``panels[start]`` and holds
    two numbers of each latent in turn: (pairs, 16, 2). Products are added in neighbouring pairs,
    the pattern that LLVM turns into multiply-add instructions (``pmaddwd``).
    """

    def code(context, builder, signature, arguments):
        word, row_count, column_count = ir.IntType(16), 4, 2
        short, wide = ir.VectorType(word, 16), ir.VectorType(_I32, 16)
        half, real = ir.VectorType(_I32, 8), ir.VectorType(ir.FloatType(), 8)

        def pointer(which, offset, kind):
            return _pointer(context, builder, signature, arguments, which, offset, kind)

        at, stride, start, pairs, place, width, scale = (
            arguments[i] for i in (1, 2, 4, 5, 7, 8, 9)
        )
        number = pairs.type
        sums = [
            [cgutils.alloca_once_value(builder, ir.Constant(half, [0] * 8)) for _ in range(2)]
            for _ in range(row_count)
        ]
        with cgutils.for_range(builder, pairs) as loop:
            columns = _panel_row(builder, pointer, start, loop.index, short, column_count, 2)
            latents = [builder.sext(column, wide) for column in columns]
            for r in range(row_count):
                offset = builder.add(
                    builder.mul(stride, number(r)), builder.mul(loop.index, number(2))
                )
                pair = builder.load(pointer(0, builder.add(at, offset), _I32))
                pair.align = 2
                factor = builder.sext(builder.bitcast(_splat(builder, pair, half), short), wide)
                for column in range(column_count):
                    products = builder.mul(factor, latents[column])
                    even = builder.shuffle_vector(products, products, _places(range(0, 16, 2)))
                    odd = builder.shuffle_vector(products, products, _places(range(1, 16, 2)))
                    total = builder.add(builder.load(sums[r][column]), builder.add(even, odd))
                    builder.store(total, sums[r][column])
        for r in range(row_count):
            for column in range(column_count):
                total = builder.sitofp(builder.load(sums[r][column]), real)
                offset = builder.add(builder.mul(width, number(r)), number(8 * column))
                stored = builder.store(
                    builder.fmul(total, _splat(builder, scale, real)),
                    pointer(6, builder.add(place, offset), real),
                )
                stored.align = 4
        return context.get_dummy_value()

    return types.void(rows, at, stride, panels, start, pairs, out, place, width, scale), code


@intrinsic
def panel_matmul(typing_context, rows, at, stride, panels, start, depth, out, place, width):
    """Multiply four float32 rows with a panel of 16 columns.

    Equal to ``out[place + width·r + l] = Σ_t rows[at + stride·r + t] · column_l[t]`` for r of 0…3
    and l of 0…15, t over ``depth`` numbers. A panel begins at ``panels[start]``: (depth, 16). Each
    sum is a chain of fused multiply-adds in the order of t, whatever the other rows are.
    """

    def code(context, builder, signature, arguments):
        row_count, column_count = 4, 2
        single = ir.FloatType()
        real = ir.VectorType(single, 8)
        at, stride, start, depth, place, width = (arguments[i] for i in (1, 2, 4, 5, 7, 8))
        number = depth.type
        name = "llvm.fma.v8f32"
        multiply_add = builder.module.globals.get(name) or ir.Function(
            builder.module, ir.FunctionType(real, [real] * 3), name
        )

        def pointer(which, offset, kind):
            return _pointer(context, builder, signature, arguments, which, offset, kind)

        sums = [
            [cgutils.alloca_once_value(builder, ir.Constant(real, [0.0] * 8)) for _ in range(2)]
            for _ in range(row_count)
        ]
        with cgutils.for_range(builder, depth) as loop:
            columns = _panel_row(builder, pointer, start, loop.index, real, column_count, 4)
            for r in range(row_count):
                offset = builder.add(builder.mul(stride, number(r)), loop.index)
                entry = builder.load(pointer(0, builder.add(at, offset), single))
                factor = _splat(builder, entry, real)
                for column in range(column_count):
                    total = builder.load(sums[r][column])
                    total = builder.call(multiply_add, [factor, columns[column], total])
                    builder.store(total, sums[r][column])
        for r in range(row_count):
            for column in range(column_count):
                offset = builder.add(builder.mul(width, number(r)), number(8 * column))
                stored = builder.store(
                    builder.load(sums[r][column]), pointer(6, builder.add(place, offset), real)
                )
                stored.align = 4
        return context.get_dummy_value()

    return types.void(rows, at, stride, panels, start, depth, out, place, width), code


@intrinsic
def panel_min_plus(typing_context, costs, at, stride, panels, start, depth, out, place, width):
    """Min-plus product of four int16 rows with a panel of 32 columns: a step of Viterbi's search.

    Equal to ``out[place + width·r + l] = min_t costs[at + stride·r + t] + column_l[t]`` for r of
    0…3 and l of 0…31, t over ``depth`` numbers; no sum may be beyond int16. A panel begins at
    ``panels[start]``: (depth, 32).
    """

    def code(context, builder, signature, arguments):
        row_count, column_count, lanes = 4, 2, 16
        word = ir.IntType(16)
        words = ir.VectorType(word, lanes)
        at, stride, start, depth, place, width = (arguments[i] for i in (1, 2, 4, 5, 7, 8))
        number = depth.type

        def pointer(which, offset, kind):
            return _pointer(context, builder, signature, arguments, which, offset, kind)

        largest = ir.Constant(words, [32767] * lanes)
        least = [
            [cgutils.alloca_once_value(builder, largest) for _ in range(column_count)]
            for _ in range(row_count)
        ]
        with cgutils.for_range(builder, depth) as loop:
            columns = _panel_row(builder, pointer, start, loop.index, words, column_count, 2)
            for r in range(row_count):
                offset = builder.add(builder.mul(stride, number(r)), loop.index)
                entry = builder.load(pointer(0, builder.add(at, offset), word))
                cost = _splat(builder, entry, words)
                for column in range(column_count):
                    total = builder.add(cost, columns[column])
                    before = builder.load(least[r][column])
                    is_less = builder.icmp_signed("<", total, before)
                    builder.store(builder.select(is_less, total, before), least[r][column])
        for r in range(row_count):
            for column in range(column_count):
                offset = builder.add(builder.mul(width, number(r)), number(lanes * column))
                stored = builder.store(
                    builder.load(least[r][column]), pointer(6, builder.add(place, offset), words)
                )
                stored.align = 2
        return context.get_dummy_value()

    return types.void(costs, at, stride, panels, start, depth, out, place, width), code


def _pointer(context, builder, signature, arguments, which, offset, kind):
    """Address of entry ``offset`` of the array that is argument ``which``, as one of ``kind``."""
    array = context.make_array(signature.args[which])(context, builder, arguments[which])
    return builder.bitcast(builder.gep(array.data, [offset]), kind.as_pointer())


def _panel_row(builder, pointer, start, index, kind, count, align):
    """Row ``index`` of the panel that argument 3 holds from ``start`` on: ``count`` vectors."""
    columns, number = [], index.type
    for column in range(count):
        row = builder.mul(index, number(count * kind.count))
        offset = builder.add(row, number(column * kind.count))
        loaded = builder.load(pointer(3, builder.add(start, offset), kind))
        loaded.align = align
        columns.append(loaded)
    return columns


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
