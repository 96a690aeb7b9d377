"""Colours that people with any colour vision can tell apart (Okabe and Ito, 2008)."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
