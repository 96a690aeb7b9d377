"""The lab: lists of training runs, their recorded results, and the page made from these."""
