"""The papers' headline comparisons: what they say and where, what comes out here, and why it differs."""

from __future__ import annotations

from dataclasses import dataclass

from sparsec.backends.accelerators.ratios import (
    NETWORKS,
    SPARSER,
    Ratio,
    arithmetic,
    blocks,
    eie_times,
    energy,
    every,
    faster,
    flexible,
    geometric,
    highly_parallel,
    lstm_time,
    one_sided,
    per_second,
    predicated,
    predicted,
    products,
    pruned_lstm,
)
from sparsec.backends.accelerators.shapes import (
    ALEXNET,
    ALEXNET_LINEAR,
    GOOGLENET,
    LENET,
    VGG,
    dense,
    mobilenet,
)

NEAR = 0.2
"""The share of the paper's number within which a comparison counts as reproduced."""


@dataclass(frozen=True)
class Headline:
    """A published comparison.

    Attributes:
        accelerator: whose.
        what: what is compared.
        paper: the published number.
        here: from a seed to the number that comes out.
        source: where the number is from.
        why: of the layers and densities, and of a difference.
        leads: whether it is the one that its accelerator is judged by.

    """

    accelerator: str
    what: str
    paper: float
    here: Ratio
    source: str
    why: str = ""
    leads: bool = False


ALEXNET_WHOLE = (*ALEXNET, *ALEXNET_LINEAR)
HEADLINES = (
    Headline("cnvlutin", "over DaDianNao, mean of AlexNet, GoogLeNet and VGG-16", 1.37,
             every("cnvlutin", "dadiannao", [dense(each, activations=False) for each in NETWORKS]), "abstract",
             "the paper's mean is over six networks", leads=True),
    Headline("eie", "us for the nine layers together at 64 PEs", 133.3, eie_times, "table IV",
             "each of them is in `docs/eie.md`; VGG-6 is 27 % off", leads=True),
    Headline("minerva", "energy, small activations left out", 2.0, predicated(0.25), "abstract",
             "a quarter of MNIST's activations stay (section 7). Energy here leaves out leakage and clock trees, which "
             "do not rest: at half of the activations it is 1.9", leads=True),
    Headline("cambricon-x", "over DianNao, mean of LeNet-5, AlexNet and VGG-16", 7.23, arithmetic(
             [faster("cambricon-x", "diannao", each) for each in (LENET, ALEXNET_WHOLE, VGG)]), "abstract",
             "the arithmetic mean of 15, 3.8 and 3.0 (of VGG-16 the convolutions, 99 % of its products); the paper "
             "has a network more, whose densities are its own",
             leads=True),
    Headline("eyeriss", "frames a second, AlexNet's convolutions", 34.7, per_second("eyeriss", ALEXNET, 200),
             "abstract and table V", "filling passes is hidden here", leads=True),
    Headline("ese", "pruned over dense LSTM, balanced", 6.2, pruned_lstm(balanced=True), "abstract and section 6",
             "11.2 % of the weights", leads=True),
    Headline("ese", "the same, not balanced", 5.5, pruned_lstm(balanced=False), "section 6",
             "random masks are more nearly balanced than pruned weights"),
    Headline("ese", "us of a step of the pruned LSTM", 82.7, lstm_time, "table 5"),
    Headline("scnn", "over its dense twin, AlexNet", 2.37, faster("scnn", "dcnn", ALEXNET), "section 6.2"),
    Headline("scnn", "the same, GoogLeNet", 2.19, faster("scnn", "dcnn", GOOGLENET), "section 6.2"),
    Headline("scnn", "the same, VGG-16", 3.52, faster("scnn", "dcnn", VGG), "section 6.2"),
    Headline("scnn", "the same, mean of the three", 2.7,
             arithmetic([faster("scnn", "dcnn", each) for each in NETWORKS]), "abstract",
             "conflicts of accumulator banks are left out, and random masks balance the tiles", leads=True),
    Headline("scnn", "the same, GoogLeNet without zeros", 0.79, faster("scnn", "dcnn", dense(GOOGLENET)), "section 6.1",
             "planes of 7 and 14 on 8 x 8 tiles"),
    Headline("scnn", "energy, mean of the three", 2.3, geometric([energy("scnn", "dcnn", each) for each in NETWORKS]),
             "abstract", "on chip only: the scatter crossbar, larger than the multipliers (table 4), is not counted"),
    Headline("sparsenn", "with prediction of outputs over without", 1.37, predicted(0.5), "abstract: 10 to 70 %",
             "the paper's is the middle of its range; half of the outputs are zero, as of half of the sums; the "
             "prediction takes 5 % of the products, as in the paper. Of the slowest of 64 units, for which all wait, "
             "12 to 14 of 16 outputs are left, not 8", leads=True),
    Headline("cambricon-s", "over Cambricon-X, mean of the three networks", 1.71,
             geometric([blocks(each) for each in NETWORKS]), "abstract",
             "weights pruned in blocks of 16 outputs, as the paper prunes convolutions, at the same density",
             leads=True),
    Headline("zena", "over Eyeriss, AlexNet", 4.0, faster("zena", "eyeriss", ALEXNET), "abstract",
             "finding pairs of non-zeros is hidden here", leads=True),
    Headline("zena", "the same, VGG-16", 5.2, faster("zena", "eyeriss", VGG), "abstract"),
    Headline("eyeriss-v2", "inferences a second, sparse AlexNet", 278.7, per_second("eyeriss-v2", ALEXNET_WHOLE, 200),
             "table VI", "other weights: the paper's are pruned for energy"),
    Headline("eyeriss-v2", "inferences a second, dense MobileNet", 1282.1,
             per_second("eyeriss-v2", mobilenet(pruned=False), 200), "table VI"),
    Headline("eyeriss-v2", "inferences a second, sparse MobileNet", 1470.6,
             per_second("eyeriss-v2", mobilenet(pruned=True), 200), "table VI",
             "partial sums pass between elements at no time here, and the mesh brings any item anywhere: Eyeriss is as "
             "much too fast (153 of 117)"),
    Headline("eyeriss-v2", "sparse MobileNet over a dense one on Eyeriss", 12.6, flexible, "abstract",
             "Eyeriss with 192 elements, as in section V-A", leads=True),
    Headline("sparten", "over a dense array, AlexNet and VGG-16, activations as Eyeriss measured them", 4.7,
             every("sparten", "dense", SPARSER), "abstract",
             "SparTen's densities were not at hand; that its one-sided design is 2.6 times the dense one says that "
             "four of ten activations are not zero", leads=True),
    Headline("sparten", "the same, activations as SCNN measured them, mean of the three", 4.7,
             every("sparten", "dense"), "abstract", "of these six of ten are not zero"),
    Headline("sparten", "over one-sided sparsity, mean of the three", 1.8, geometric(
             [one_sided(each) for each in NETWORKS]), "abstract",
             "here SparTen with the weights' zeros kept; filters of random masks are as dense as each other"),
    Headline("sparten", "over SCNN, mean of the three", 3.0, every("sparten", "scnn"), "abstract",
             "SCNN as its own paper has it, 2.9 times its dense twin; in SparTen's paper it is 1.6 times the dense "
             "array"),
    Headline("masr", "over EIE, each with 1,024 lanes", 1.6, highly_parallel(1024), "abstract",
             "a layer of 1,760 units (Deep Speech 2) with a third of weights and activations, as the survey says. "
             "EIE's elements have two rows each then, which queues of 8 do not even out; at 64 lanes it is 1.02",
             leads=True),
    Headline("eager-pruning", "over a dense array, VGG-16's convolutions", 1.91, faster(
             "eager-pruning", "diannao", VGG), "abstract",
             "the paper's is over training, which begins with all weights: with half of them it is 2.04 here",
             leads=True),
    Headline("sigma", "over a systolic array, ten products, 80 and 30 % zeros", 6.99, products(0.2, 0.7),
             "figure 12b, mean of its bars",
             "seven of ten bars within 13 %; the product of one vector takes half as long here. The abstract's 5.7 is "
             "a mean over further sparsities", leads=True),
    Headline("sigma", "the same without zeros", 1.87, products(1.0, 1.0), "figure 12a, mean of its bars"),
    Headline("procrustes", "forward pass over a dense array, VGG-16's convolutions", 4.0, faster(
             "procrustes", "dense", VGG, units=256, filters=16), "abstract: up to 4x",
             "the most of five networks in training, whose densities layer by layer were not at hand; with a fifth of "
             "the weights everywhere it is 4.9", leads=True),
)
"""In the survey's order. SPEC2 and the spectral CNN accelerator have none: see `docs/accelerators.md`."""
