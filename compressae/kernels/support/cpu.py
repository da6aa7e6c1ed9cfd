"""Choice of supports by orthogonal least squares with a beam, compiled by numba.

Let Q = q_1 … q_s be the orthonormal basis that a row's chosen latents span, in the order of their
choice, and r its residual. Each latent w keeps its correlation w·r and the squared length of its
part orthogonal to the basis, 1 − Σ (w·q_c)². The error falls by (w·r)² over that squared length if
w is chosen. Choosing w_j adds q = (w_j − Σ (w_j·q_c) q_c) / length, and the products w·q of all
latents follow from row j of the Gram matrix and the products w·q_c, which are kept.
"""

import numba
import numpy as np

from compressae.kernels.intrinsics import PANEL_ROWS, at_least, lowest_bit, panel_products

#: Latents of a panel, and rows that are multiplied with one together.
PANEL, TOGETHER = 16, PANEL_ROWS
#: Rows whose products with all latents lie in the cache together.
BLOCK = 64
#: int16 that stands for 1, and what a product of two such numbers is multiplied with.
_ONE = 32767
_SCALE, _SQUARE_SCALE = np.float32(1 / _ONE), np.float32(1 / _ONE**2)
#: Least squared length of a latent's part orthogonal to the basis; rounding reaches a tenth of it.
LEAST = np.float32(1e-3)
#: Squared length of chosen latents: whatever their correlation, they reduce nothing.
_CHOSEN = np.float32(1e30)
#: Latents of a tile of a step, which stays in the first cache.
_TILE = 512
#: Fewest latents that later steps look at, and how many times k they are otherwise.
_FEWEST, _TIMES_K = 512, 8
#: Dimensions for each latent of a row from which later steps need not look at all latents: a
#: residual that has lost more of its dimensions correlates most with others than before.
_DIMENSIONS = 16
#: Exponents of float32 below the largest score in which the shortlist's threshold is sought first.
_SOUGHT = 10 << 23

# Sums are not reordered ("reassoc"): code that was just compiled and that of numba's cache, where
# functions were optimised beside others, would differ in a last bit.
_jit = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "nsz"})


@_jit
def to_int16(x, out, start, stop):
    """Fill out (n, d or d + 1) int16, rows start..stop: unit rows times 32,767."""
    for i in range(start, stop):
        total = np.float32(0)
        for t in range(x.shape[1]):
            total += x[i, t] * x[i, t]
        scale = np.float32(_ONE) / np.sqrt(total) if total > 0 else np.float32(0)
        for t in range(x.shape[1]):
            out[i, t] = np.int16(np.rint(x[i, t] * scale))


def to_panels(rows):
    """Lay latents (h, d) int16 out in panels (h/16, d/2, 16, 2), as ``panel_products`` reads."""
    h, d = rows.shape
    return np.ascontiguousarray(rows.reshape(h // PANEL, PANEL, d // 2, 2).transpose(0, 2, 1, 3))


@_jit
def _multiply(rows, panels, scale, out):
    """Multiply int16 rows (m, d) with all latents into out (m, h) float32; m a multiple of 8."""
    (m, d), h = rows.shape, out.shape[1]
    flat_rows, flat_panels, flat_out = rows.reshape(-1), panels.reshape(-1), out.reshape(-1)
    for p in range(panels.shape[0]):
        for i in range(0, m, TOGETHER):
            panel_products(
                flat_rows, i * d, d, flat_panels, p * PANEL * d, d // 2,
                flat_out, i * h + PANEL * p, h, scale,
            )  # fmt: skip


@_jit
def _round(products, gram):
    for i in range(len(products)):
        for t in range(products.shape[1]):
            product = np.rint(products[i, t])
            gram[i, t] = np.int16(product if product < _ONE else _ONE)


@_jit
def fill_gram(rows, panels, gram, start, stop):
    """Fill the Gram matrix (h, h) int16, blocks start..stop of 64 rows."""
    products = np.empty((BLOCK, gram.shape[1]), np.float32)
    for block in range(start, stop):
        own = slice(block * BLOCK, (block + 1) * BLOCK)
        _multiply(rows[own], panels, _SCALE, products)
        _round(products, gram[own])


@_jit
def _largest(keys):
    """Index of the first largest of keys int32; their number is a multiple of 64."""
    best = keys[0]
    for t in range(len(keys)):
        best = max(best, keys[t])
    for at in range(0, len(keys), 64):
        bits = at_least(keys, at, best)
        if bits:
            return at + np.int64(lowest_bit(bits))
    return 0


@_jit
def _count(keys, least):
    total = np.int32(0)
    for t in range(len(keys)):
        total += np.int32(keys[t] >= least)
    return total


@_jit
def _shortlist(keys, most, out):
    """Indices of the largest keys ≥ 0 into out, ascending; returns how many: 7/8 to all of most.

    Fewer only where fewer keys are ≥ 0. The number of keys is a multiple of 64.
    """
    # Bisect for a threshold: more than ``most`` keys reach low, at most as many reach high.
    high = np.int32(keys[_largest(keys)] + 1)
    low = np.int32(max(high - _SOUGHT, 0))
    if _count(keys, low) <= most:
        low = np.int32(0)
    while high - low > 1:
        middle = np.int32(low + (high - low) // 2)
        reaching = _count(keys, middle)
        if reaching > most:
            low = middle
        else:
            high = middle
            if 8 * reaching >= 7 * most:
                break

    # Take those that reach high, and if they are few, equal ones below.
    taken = 0
    for at in range(0, len(keys), 64):
        bits = at_least(keys, at, high)
        while bits:
            out[taken] = at + np.int64(lowest_bit(bits))
            taken += 1
            bits &= bits - np.uint64(1)
    t = 0
    while 8 * taken < 7 * most and t < len(keys):
        if low <= keys[t] < high:
            out[taken] = t
            taken += 1
        t += 1
    return taken


@_jit
def _subtract(p, a, b, c, d, of_a, of_b, of_c, of_d):
    for t in range(len(p)):
        p[t] -= of_a * a[t] + of_b * b[t] + of_c * c[t] + of_d * d[t]


@_jit
def _subtract_one(p, a, of_a):
    for t in range(len(p)):
        p[t] -= of_a * a[t]


@_jit
def _project_out(p, basis, path, factors, depth, start, stop):
    """Subtract from p the products basis[path[c]][start:stop], times factors, of c < depth."""
    c = 0
    while c + 4 <= depth:
        _subtract(
            p, basis[path[c], start:stop], basis[path[c + 1], start:stop],
            basis[path[c + 2], start:stop], basis[path[c + 3], start:stop],
            factors[c], factors[c + 1], factors[c + 2], factors[c + 3],
        )  # fmt: skip
        c += 4
    while c < depth:
        _subtract_one(p, basis[path[c], start:stop], factors[c])
        c += 1


@_jit
def _update(p, inverse, z, least, correlations, lengths, scores):
    """Turn p into the products with the new basis vector, and move what depends on them."""
    for t in range(len(p)):
        product = p[t] * inverse
        correlation = correlations[t] - z * product
        length = lengths[t] - product * product
        p[t], correlations[t], lengths[t] = product, correlation, length
        scores[t] = correlation * correlation / (length if length > least else least)


@_jit
def _hash(latent):
    """Hash a latent (splitmix64); the sum over a support does not depend on its order."""
    z = np.uint64(latent + 1) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@_jit
def _copy(source, out):
    """Copy a vector; a loop compiles in a tenth of the time of a slice's assignment."""
    for t in range(len(source)):
        out[t] = source[t]


@_jit
def _first_largest(numbers, count):
    """Index of the first largest of the first ``count`` numbers."""
    best = 0
    for t in range(1, count):
        if numbers[t] > numbers[best]:
            best = t
    return best


@_jit
def _fill_gram_row(j, latents, fit):
    """Fill row j of the Gram matrix, if it is not filled yet."""
    rows, panels, gram, is_filled = latents
    one_row, one_product = fit[-2:]
    if not is_filled[j]:
        _copy(rows[j], one_row[0])
        _multiply(one_row, panels, _SCALE, one_product)
        _round(one_product[:1], gram[j : j + 1])
        is_filled[j] = True


@_jit
def _first_steps(products, h, steps, counts, least, latents, fit, support):
    """Choose the first latents of a row among all; products (h',) are with the row; see select."""
    correlations, lengths, scores, basis, order, factors = fit[:6]
    gram = latents[2]
    _copy(products, correlations)
    for t in range(h):
        lengths[t] = 1
        scores[t] = products[t] * products[t]
    keys = scores.view(np.int32)  # Scores ≥ 0 order like their bits.
    chosen = 0
    for s in range(steps):
        if s == chosen:  # The next stage: one latent, or several at once.
            for _ in range(counts[s]):
                support[chosen] = _largest(keys)
                scores[support[chosen]] = -1
                chosen += 1
        if chosen == len(support):
            break
        j = np.int64(support[s])
        _fill_gram_row(j, latents, fit)
        length = np.float32(1)
        for c in range(s):
            factors[c] = basis[c, j]
            length -= factors[c] * factors[c]
        inverse = 1 / np.sqrt(max(length, LEAST))
        z = correlations[j] * inverse
        for a in range(0, h, _TILE):
            b = min(a + _TILE, h)
            p, row = basis[s, a:b], gram[j, a:b]
            for t in range(b - a):
                p[t] = np.float32(row[t]) * _SCALE
            _project_out(p, basis, order, factors, s, a, b)
            _update(p, inverse, z, least, correlations[a:b], lengths[a:b], scores[a:b])
        lengths[j] = _CHOSEN
        for c in range(chosen):
            scores[support[c]] = -1


@_jit
def _narrow(width, steps, fit, tree, states):
    """Start the tree: a chain of the first steps' nodes, and one state. Returns its latents."""
    correlations, lengths, scores, basis = fit[:4]
    shortlist, node_products, parents = tree[:3]
    state_correlations, state_lengths, state_scores, ends, reductions, hashes = states
    n = _shortlist(scores.view(np.int32), width, shortlist)
    for c in range(steps):
        for u in range(n):
            node_products[c, u] = basis[c, shortlist[u]]
        parents[c] = c - 1
    for state in range(state_scores.shape[1]):
        for u in range(n, state_scores.shape[2]):
            state_scores[0, state, u] = state_scores[1, state, u] = -1
    for u in range(n):
        t = shortlist[u]
        state_correlations[0, 0, u] = correlations[t]
        state_lengths[0, 0, u] = lengths[t]
        state_scores[0, 0, u] = scores[t]
    ends[0, 0], reductions[0, 0], hashes[0, 0] = steps - 1, 0, 0
    return n


@_jit
def _fit_node(node, state, now, new_state, n, steps, least, latents, fit, tree, states):
    """Fit a row to the support of a new node: its products, and its state's numbers."""
    shortlist, node_products, parents, places, path = tree
    state_correlations, state_lengths, state_scores = states[:3]
    factors, gram = fit[5], latents[2]
    place = places[node]
    j = np.int64(shortlist[place])
    _fill_gram_row(j, latents, fit)
    p, row = node_products[node, :n], gram[j]
    for u in range(n):
        p[u] = np.float32(row[shortlist[u]]) * _SCALE
    depth, above, length = 0, parents[node], np.float32(1)
    while above >= 0:
        path[depth], factors[depth] = above, node_products[above, place]
        length -= factors[depth] * factors[depth]
        depth += 1
        above = parents[above]
    _project_out(p, node_products, path, factors, depth, 0, n)
    inverse = 1 / np.sqrt(max(length, LEAST))
    z = state_correlations[now, state, place] * inverse
    correlations = state_correlations[1 - now, new_state, :n]
    lengths, scores = state_lengths[1 - now, new_state, :n], state_scores[1 - now, new_state, :n]
    _copy(state_correlations[now, state, :n], correlations)
    _copy(state_lengths[now, state, :n], lengths)
    _update(p, inverse, z, least, correlations, lengths, scores)
    lengths[place] = _CHOSEN
    above = node
    while above >= steps:
        scores[places[above]] = -1
        above = parents[above]


@_jit
def _later_steps(n, steps, beam, least, latents, fit, tree, states, choices, support):
    """Choose the other latents: extend each state by its best ones, and keep the best extensions.

    ``choices`` are the extensions (3, 2·beam) float64, reduction, state and place, and the hashes
    (2·beam,) uint64 of their supports.
    """
    choices, choice_hashes = choices
    shortlist, _, parents, places, _ = tree
    state_scores, ends, reductions, hashes = states[2:]
    keys = state_scores.view(np.int32)
    k, branches = len(support), 1 if beam == 1 else 2
    now, state_count, made = 0, 1, steps
    for s in range(steps, k):
        count = 0
        for state in range(state_count):
            for _ in range(branches):
                place = _largest(keys[now, state])
                score = state_scores[now, state, place]
                if score < 0:
                    break
                state_scores[now, state, place] = -1
                choices[0, count] = reductions[now, state] + score
                choices[1, count], choices[2, count] = state, place
                choice_hashes[count] = hashes[now, state] + _hash(shortlist[place])
                count += 1
        kept = 0
        for _ in range(count):
            best = _first_largest(choices[0], count)
            reduction, support_hash = choices[0, best], choice_hashes[best]
            choices[0, best] = -1
            is_twice = False  # The same support, its latents in another order.
            for other in range(kept):
                is_twice |= hashes[1 - now, other] == support_hash
            if is_twice:
                continue
            state = int(choices[1, best])
            parents[made], places[made] = ends[now, state], int(choices[2, best])
            ends[1 - now, kept], hashes[1 - now, kept] = made, support_hash
            reductions[1 - now, kept] = reduction
            if s + 1 < k:
                _fit_node(made, state, now, kept, n, steps, least, latents, fit, tree, states)
            made += 1
            kept += 1
            if kept == beam:
                break
        now, state_count = 1 - now, kept

    # Read the best support from its last choice to its first.
    node = ends[now, _first_largest(reductions[now], state_count)]
    for s in range(k - 1, steps - 1, -1):
        support[s] = shortlist[places[node]]
        node = parents[node]


def steps_and_width(d, h, k, beam):
    """How many first steps look at all latents, and at how many the later ones look."""
    is_narrowing = _DIMENSIONS * k <= d
    width = min(max(_FEWEST, _TIMES_K * k), h) if is_narrowing else h
    return k if beam == 1 and not is_narrowing else min(max(2, 3 * k // 8), k), width


def workspace(latents, k, beam, steps, width):
    """Allocate the scratch memory of a thread, in tuples that the functions here unpack.

    Not named tuples: numba's cache of compiled code would hold on to the name of their module.
    """
    h, d = latents[0].shape  # Padded.
    lanes = -(-width // 64) * 64 if steps < k else 64
    nodes = steps + beam * (k - steps)
    fit = (  # Of a row during the first steps, over all latents.
        np.empty(h, np.float32),  # correlations w·r
        np.empty(h, np.float32),  # squared lengths of the parts orthogonal to the basis
        np.full(h, -1, np.float32),  # scores: error reductions, −1 of what cannot be chosen
        np.empty((steps, h), np.float32),  # basis: w·q_c
        np.arange(steps),  # order: 0, 1, 2, …
        np.empty(k, np.float32),  # factors: w·q_c of one latent
        np.zeros((TOGETHER, d), np.int16),  # one row of latents
        np.empty((TOGETHER, h), np.float32),  # and its products
    )
    tree = (  # Of choices over the shortlist; node c < steps is the c-th of the first ones.
        np.empty(h, np.int32),  # shortlist of latents
        np.empty((nodes, lanes), np.float32),  # products w·q of each node's basis vector
        np.empty(nodes, np.int32),  # parents, −1 of the first
        np.empty(nodes, np.int32),  # places of the chosen latents in the shortlist
        np.empty(k, np.int64),  # path from a node to the first
    )
    states = (  # Supports so far, before and after a step.
        np.empty((2, beam, lanes), np.float32),  # correlations, as in fit
        np.empty((2, beam, lanes), np.float32),  # squared lengths
        np.empty((2, beam, lanes), np.float32),  # scores
        np.empty((2, beam), np.int32),  # ends: the last node
        np.empty((2, beam), np.float32),  # reductions since the first steps
        np.empty((2, beam), np.uint64),  # hashes, equal of equal supports
    )
    choices = np.empty((3, 2 * beam)), np.empty(2 * beam, np.uint64)
    block = np.zeros((BLOCK, d), np.int16), np.empty((BLOCK, h), np.float32)
    return fit, tree, states, choices, block


@_jit
def select(x, latents, h, beam, counts, least, steps, width, work, supports, start, stop):
    """Fill supports (n, k), rows start..stop; rows of the Gram matrix are filled in if need be.

    Step s of the first ``steps`` begins a stage of counts[s] latents, if those of the stage before
    are all chosen. ``least`` is the least squared length that scores count with: 1 for scores that
    are squared correlations.
    """
    fit, tree, states, choices, (numbers, products) = work
    k = supports.shape[1]
    for first in range(start, stop, BLOCK):
        # Multiply a block of rows with all latents.
        count = min(BLOCK, stop - first)
        to_int16(x[first : first + count], numbers, 0, count)
        together = (count + TOGETHER - 1) // TOGETHER * TOGETHER
        _multiply(numbers[:together], latents[1], _SQUARE_SCALE, products)

        # Choose row by row.
        for i in range(count):
            support = supports[first + i]
            _first_steps(products[i], h, steps, counts, least, latents, fit, support)
            if steps < k:
                n = _narrow(width, steps, fit, tree, states)
                _later_steps(n, steps, beam, least, latents, fit, tree, states, choices, support)
