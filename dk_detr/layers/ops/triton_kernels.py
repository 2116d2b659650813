"""The two kernels of deformable attention on a GPU, in Triton. Only `triton_backend`, which starts them, imports this.

One program does QUERIES queries of one image and one head, their channels side by side, over all levels and points:
what is sampled stays in registers, and no intermediate reaches global memory. Heads come next to each other in the
grid, so that the programs that run together read and write neighbouring memory.

B images, Q queries, S tokens, H heads, D channels of a head, L levels, P points. Rows are (image, query, head) in C
order, samples are (row, level, point). Offsets that grow with B or Q are 64 bits wide: tensors may exceed 2³¹ elements.
"""

import triton
from triton import language as tl

POINTS_AT_ONCE: tl.constexpr = tl.constexpr(4)
"""Of a row, so that their loads are in flight together; forward only, backward has no registers left for it."""


@triton.jit
def _rows(first, queries, HEADS: tl.constexpr, QUERIES: tl.constexpr):
    """Of program number `first`: its image, its head, its rows (QUERIES) and which of these exist."""
    head, block = first % HEADS, first // HEADS
    blocks = tl.cdiv(queries, QUERIES)
    image = (block // blocks).to(tl.int64)
    query = (block % blocks) * QUERIES + tl.arange(0, QUERIES)
    return image, head, (image * queries + query) * HEADS + head, query < queries


@triton.jit
def _cell_units(location, size):
    """[0, 1] from edge to edge -> units of cells, whole numbers at their centres.

    What is a cell or more beyond the border, infinite or no number becomes -2: all four neighbours lie outside, and the
    conversion to an integer cannot overflow. `_look_up` remembers what is no number.
    """
    place = location * size - 0.5
    return tl.where((place > -1) & (place < size), place, -2.0)


@triton.jit
def _look_up(locations, weights, sample, exists, height, width, DTYPE: tl.constexpr):
    """Of each sample: column and row of its upper left neighbour, its way from there to the next, its weight.

    The way is NaN where the place is infinite or no number: what is multiplied by it must not look like an answer.
    """
    x_place = tl.load(locations + 2 * sample, mask=exists, other=-1.0).to(DTYPE)
    y_place = tl.load(locations + 2 * sample + 1, mask=exists, other=-1.0).to(DTYPE)
    x, y = _cell_units(x_place, width), _cell_units(y_place, height)
    weight = tl.load(weights + sample, mask=exists, other=0.0).to(DTYPE)
    left, top = tl.floor(x), tl.floor(y)
    return left.to(tl.int32), top.to(tl.int32), x - left + x_place * 0, y - top + y_place * 0, weight


@triton.jit
def _neighbour(left, top, right_share, lower_share, height, width, CORNER: tl.constexpr):
    """Of neighbour 0 to 3 (left, right; upper, lower) of each sample: its cell, if that exists, its x and y share."""
    column, row = left + CORNER % 2, top + CORNER // 2
    exists = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    x_share = right_share if CORNER % 2 else 1 - right_share
    y_share = lower_share if CORNER // 2 else 1 - lower_share
    return row * width + column, exists, x_share, y_share


@triton.jit(do_not_specialize=["tokens", "queries"])
def forward_kernel(
    output,  # (B, Q, H, D), written
    value,  # (B, S, H, D)
    locations,  # (B, Q, H, L, P, 2)
    weights,  # (B, Q, H, L, P)
    sizes,  # L pairs (2·h + 1, 2·w + 1): see `triton_backend`
    tokens,
    queries,
    HEADS: tl.constexpr,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    WIDTH: tl.constexpr,  # D
    LANES: tl.constexpr,  # D padded to a power of two
    QUERIES: tl.constexpr,  # of one program
    DTYPE: tl.constexpr,  # of the arithmetic
):
    """The weighted sum of samples of each row."""
    image, head, row, exists = _rows(tl.program_id(0), queries, HEADS, QUERIES)
    lane = tl.arange(0, LANES)[None, :]
    level_value = value + (image * tokens * HEADS + head) * WIDTH + lane
    total = tl.zeros((QUERIES, LANES), DTYPE)
    for level in tl.static_range(LEVELS):
        height, width = sizes[level][0] // 2, sizes[level][1] // 2
        for point in tl.range(POINTS, loop_unroll_factor=POINTS_AT_ONCE):
            sample = (row * LEVELS + level) * POINTS + point
            left, top, right_share, lower_share, weight = _look_up(
                locations, weights, sample, exists, height, width, DTYPE
            )
            for corner in tl.static_range(4):
                cell, inside, x_share, y_share = _neighbour(left, top, right_share, lower_share, height, width, corner)
                offset = cell.to(tl.int64) * (HEADS * WIDTH)
                seen = tl.load(level_value + offset[:, None], mask=inside[:, None] & (lane < WIDTH), other=0.0)
                total += (weight * x_share * y_share)[:, None] * seen.to(DTYPE)
        level_value += (height * width).to(tl.int64) * (HEADS * WIDTH)
    tl.store(output + row[:, None] * WIDTH + lane, total, mask=exists[:, None] & (lane < WIDTH))


@triton.jit(do_not_specialize=["tokens", "queries"])
def backward_kernel(
    grad_value,  # (B, S, H, D), added to: float32 or float64, or int64 where FIXED_POINT
    grad_locations,  # (B, Q, H, L, P, 2), written
    grad_weights,  # (B, Q, H, L, P), written
    scale,  # (B, H): times this, a gradient of a value becomes a whole number; only read where FIXED_POINT
    grad_output,  # (B, Q, H, D)
    value,
    locations,
    weights,
    sizes,
    tokens,
    queries,
    FIXED_POINT: tl.constexpr,
    HEADS: tl.constexpr,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    WIDTH: tl.constexpr,
    LANES: tl.constexpr,
    QUERIES: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """The gradients of all three inputs; the arguments are named as those of `forward_kernel`.

    Each sample belongs to one program, which alone writes its gradients. Cells are shared between samples: atomics.
    """
    image, head, row, exists = _rows(tl.program_id(0), queries, HEADS, QUERIES)
    lane = tl.arange(0, LANES)[None, :]
    first = (image * tokens * HEADS + head) * WIDTH + lane
    given = tl.load(grad_output + row[:, None] * WIDTH + lane, mask=exists[:, None] & (lane < WIDTH), other=0.0)
    given = given.to(DTYPE)
    unit = tl.load(scale + image * HEADS + head) if FIXED_POINT else 1.0
    for level in tl.static_range(LEVELS):
        height, width = sizes[level][0] // 2, sizes[level][1] // 2
        for point in tl.range(POINTS):
            sample = (row * LEVELS + level) * POINTS + point
            left, top, right_share, lower_share, weight = _look_up(
                locations, weights, sample, exists, height, width, DTYPE
            )
            to_x = tl.zeros((QUERIES,), DTYPE)
            to_y = tl.zeros((QUERIES,), DTYPE)
            to_weight = tl.zeros((QUERIES,), DTYPE)
            for corner in tl.static_range(4):
                cell, inside, x_share, y_share = _neighbour(left, top, right_share, lower_share, height, width, corner)
                offset = first + (cell.to(tl.int64) * (HEADS * WIDTH))[:, None]
                mask = inside[:, None] & (lane < WIDTH)
                agreement = tl.sum(given * tl.load(value + offset, mask=mask, other=0.0).to(DTYPE), axis=1)
                to_weight += x_share * y_share * agreement
                to_x += (y_share if corner % 2 else -y_share) * agreement
                to_y += (x_share if corner // 2 else -x_share) * agreement
                part = (weight * x_share * y_share)[:, None] * given
                if FIXED_POINT:
                    part = (part * unit).to(tl.int64)
                tl.atomic_add(grad_value + offset, part, mask=mask, sem="relaxed")
            tl.store(grad_weights + sample, to_weight, mask=exists)
            tl.store(grad_locations + 2 * sample, to_x * weight * width, mask=exists)
            tl.store(grad_locations + 2 * sample + 1, to_y * weight * height, mask=exists)
        first += (height * width).to(tl.int64) * (HEADS * WIDTH)


INTERPRETED = not isinstance(forward_kernel, triton.JITFunction)
"""Whether TRITON_INTERPRET was set when this module was imported: the kernels then run, slowly, on any device."""
