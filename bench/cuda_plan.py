"""Which products `cuda_bench.py` measures, the most telling first.

2:4 weights in half precision by size and tokens; the same in 8 bits; weights without a pattern for few tokens; and
cuSPARSELt's search for an algorithm, which has taken a process down, in a process of its own.
"""

from dataclasses import asdict, dataclass

SIZES = (4096, 8192)
COLUMNS = (16, 4096, 1, 128, 1024)  # the most telling first
ZEROS = (90, 50, 70, 80, 95)
ZEROS_COLUMNS = (1, 16, 4, 8)
EIGHT_BITS = ("int8", "fp8")
FEWEST_SEARCHED = 16
SEARCHED = "cuSPARSELt searched"


@dataclass(frozen=True)
class Product:
    """A product.

    Attributes:
        size: outputs and inputs of the weight.
        columns: tokens.
        zeros: percent of the weight, anywhere; 0: it is 2:4.
        precision: "fp16", or that of the operands, "int8" or "fp8".
        process: what shares a process with it; "" for all that can be trusted.

    """

    size: int
    columns: int
    zeros: int = 0
    precision: str = "fp16"
    process: str = ""

    @property
    def name(self):
        """The case's name."""
        what = [f"{self.zeros} % zeros"] * (self.zeros > 0) + [self.precision] * (self.precision != "fp16")
        return ", ".join([f"{self.size} x {self.size}", *what, str(self.columns), *[self.process] * bool(self.process)])

    @property
    def case(self):
        """What the plan says of it."""
        return {"case": self.name, "kind": "product", **asdict(self)}


def products(sizes=SIZES, columns=COLUMNS, zeros=ZEROS):
    """All products in their order.

    Args:
        sizes: of 2:4 weights; the first is that of all others, too.
        columns: tokens of 2:4 weights.
        zeros: percentages of weights without a pattern.

    """
    halves = [Product(size, count) for size in sizes for count in columns]
    eights = [Product(sizes[0], count, precision=each) for count in columns for each in EIGHT_BITS]
    few = [Product(sizes[0], count, zeros=each) for each in zeros for count in ZEROS_COLUMNS]
    searched = [Product(size, count, process=SEARCHED) for size in sizes for count in columns if count >= FEWEST_SEARCHED]
    parts = [halves[:2], eights[2:4], few[:2], halves[2:len(columns) + 2], eights[:2], few[2:], searched,
             halves[len(columns) + 2:], eights[4:]]
    ordered = dict.fromkeys(each for part in parts for each in part)
    assert len(ordered) == len(halves) + len(eights) + len(few) + len(searched)
    return list(ordered)
