"""Huffman coding of streams for files (Deep Compression, Han et al., ICLR 2016, section 4).

A coded stream begins with the code length of every symbol, a byte each, and the bit at which every block of
`BLOCK` symbols begins, four bytes each; then follow the codes, canonical, the first bit the highest of its byte. All
blocks are decoded side by side.
"""

from __future__ import annotations

import heapq
from dataclasses import replace

import numpy as np

from sparsec.formats.bits import Bytes, Stream, Symbols, pack, symbol_dtype, unpack

BLOCK = 1024  # short, as all blocks are decoded a symbol at a time
LONGEST = 16  # bits of a code
WIDEST = 8  # bits of a symbol


def shrink(stream: Stream) -> Stream:
    """The stream Huffman-coded where that is smaller, else as it is."""
    if stream.coding != "packed" or not 0 < stream.bits <= WIDEST or not stream.count:
        return stream
    symbols = unpack(stream)
    counts = np.bincount(symbols, minlength=1 << stream.bits)
    lengths = code_lengths(counts)
    if int((counts * lengths).sum()) // 8 >= stream.nbytes:
        return stream
    coded = replace(stream, data=_encode(symbols, lengths), coding="huffman")
    return coded if coded.nbytes < stream.nbytes else stream


def read(stream: Stream) -> Symbols:
    """The symbols of a stream of either coding."""
    return unpack(stream) if stream.coding == "packed" else _decode(stream)


def expand(stream: Stream) -> Stream:
    """The packed stream of a stream of either coding."""
    return stream if stream.coding == "packed" else pack(_decode(stream), stream.bits)


def code_lengths(counts: np.ndarray) -> np.ndarray:
    """Bits of every symbol's code, 0 for symbols that do not occur; none longer than `LONGEST`."""
    while True:
        lengths = _huffman_lengths(counts)
        if lengths.max(initial=0) <= LONGEST:
            return lengths
        counts = (counts + 1) // 2  # flatter counts have shorter codes; no symbol that occurs falls to 0


def _huffman_lengths(counts: np.ndarray) -> np.ndarray:
    lengths = np.zeros(len(counts), np.int64)
    heap = [(int(count), symbol, [symbol]) for symbol, count in enumerate(counts) if count]
    if len(heap) == 1:
        lengths[heap[0][1]] = 1
    heapq.heapify(heap)
    while len(heap) > 1:
        (first, key, ours), (second, _, theirs) = heapq.heappop(heap), heapq.heappop(heap)
        lengths[ours + theirs] += 1
        heapq.heappush(heap, (first + second, key, ours + theirs))
    return lengths


def _codes(lengths: np.ndarray) -> np.ndarray:
    """The canonical codes: shorter ones first, then by symbol."""
    order = np.lexsort((np.arange(len(lengths)), lengths))
    used = order[lengths[order] > 0]
    steps = 1 << (LONGEST - lengths[used])
    codes = np.zeros(len(lengths), np.int64)
    codes[used] = (np.cumsum(steps) - steps) >> (LONGEST - lengths[used])
    return codes


def fits(count: int, bits: int, nbytes: int) -> bool:
    """Whether so many bytes can hold the header of so many coded symbols, and a bit for each of them."""
    return 0 < bits <= WIDEST and nbytes >= (1 << bits) + 4 * -(-count // BLOCK) + -(-count // 8)


def _encode(symbols: Symbols, lengths: np.ndarray) -> Bytes:
    sizes = lengths[symbols]
    ends = np.cumsum(sizes)
    bits = np.zeros(int(ends[-1]), np.uint8)
    codes = _codes(lengths)[symbols]
    for position in range(int(lengths.max())):
        long = sizes > position
        bits[ends[long] - 1 - position] = codes[long] >> position & 1
    starts = (ends - sizes)[::BLOCK].astype("<u4")
    return np.concatenate([lengths.astype(np.uint8), starts.view(np.uint8), np.packbits(bits)])


def _decode(stream: Stream) -> Symbols:
    blocks = -(-stream.count // BLOCK)
    header = 1 << stream.bits
    lengths = stream.data[:header].astype(np.int64)
    place = np.frombuffer(stream.data[header : header + 4 * blocks].tobytes(), "<u4").astype(np.int64)
    data = np.append(stream.data[header + 4 * blocks :], np.zeros(4, np.uint8)).astype(np.int64)
    table = np.repeat(np.lexsort((np.arange(header), lengths)), _shares(lengths))
    table = np.append(table, np.zeros((1 << LONGEST) - len(table), table.dtype))
    symbols = np.zeros((BLOCK, blocks), symbol_dtype(stream.bits))
    last = len(data) - 3
    for row in symbols:
        byte = np.minimum(place >> 3, last)  # blocks shorter than BLOCK run on into the end
        window = (data[byte] << 16 | data[byte + 1] << 8 | data[byte + 2]) >> (8 - (place & 7)) & 0xFFFF
        row[:] = table[window]
        place += lengths[row]
    return symbols.T.reshape(-1)[: stream.count]


def _shares(lengths: np.ndarray) -> np.ndarray:
    """How many of the windows of `LONGEST` bits begin with each code, in canonical order."""
    ordered = np.sort(lengths, kind="stable")
    return np.where(ordered > 0, 1 << (LONGEST - ordered), 0)
