"""Every row of cases.jsonl on which we and its source differ, and why (docs/verification.md).

DISPUTED: the source is wrong, or its row tests something else than mathematics. LIMITS: the
source is right and we do not match it; none of them is accepted wrongly. CHOICES: rows about
conventions, where ours is another.
"""

DISPUTED = {
    "v0247": "1 - 1/e and 1 + 1/e differ",
    "v0300": "an integer does not stand for the decimal 2.0001",
    "v0301": "75 is a hundred times 0.75, and there is no percent sign",
    "v0314": "an empty gold can be met by no answer",
    "v0357": "[1, oo) for [2^(1/2^1000), oo) is false; the ends agree to 301 digits",
    "v0364": "a bare list of solutions has no order, as v0327 and v0701 say themselves",
    "v0709": "the gold `$221,$8$` is garbled",
    "v0779": "the gold has two values, the answer one of them",
    "v0801": "the gold `Final strategy` is no answer",
    "v0837": "6 1/64 = 6.015625 rounds to 6.016, not to 6.018",
    "v0871": "`b, a, d, c` does not say by which relation",
    "v0925": "other words; that they mean the same is a judge's opinion",
    "v0927": "785.12 and 784 differ",
    "v0929": "1.3 % is coarser than the gold 1.27 %, with two digits",
    "v0931": "6 1/64 = 6.015625 rounds to 6.02; 6.01 is cut off",
    "v0951": "an integer percentage for the gold 117.95 %",
    "v0975": "2.65 is coarser than the gold 2.653, with three digits",
    "v1129": "the equation is true and ends in the answer; the source reads bare numbers only",
}
ALSO_DISPUTED: dict[str, str] = {}
"""Rows on which we say what the source says, and both are wrong."""

LIMITS = {
    "v0817": "an index sum written with dots, in another order",
    "v0833": "the gold is a sentence",
    "v0843": "the gold is a sentence",
    "v0873": "residues modulo 4, stated in words",
    "v0877": "a set described in words",
    "v0903": "the gold is a sentence",
    "v0939": "the gold is a sentence",
    "v0993": "the gold is a sentence",
    "v1027": "the gold is a sentence",
    "v1040": "the gold is a sentence",
}

CHOICES = {
    "v0007": "a decimal comma is a separator here",
    "v0028": "words that only announce an answer do not make it wrong",
    "v0102": "a relation multiplied by -1 is not turned around",
    "v0109": "the chain `3+3 = 2` is false",
    "v0118": "a product of matrices is not worked out",
    "v0127": "0.33 has too few digits for 1/3",
    "v0166": "a text without a box",
    "v0181": "`<tab>ext{13}`: the lost backslash is restored on purpose",
    "v0253": "a sentence for a choice",
    "v0262": "the gold is a sentence",
    "v0263": "the gold is a name behind a letter",
    "v0472": "7.1 and 7 with the same power of ten: two digits are not trusted",
    "v0498": "50% is 1/2, as v0462 and v0757 have it",
}
