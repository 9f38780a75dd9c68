"""Transfer of a pretrained net to a small labelled set, without a GPU.

    from whichbackbone.experiments.transfer import features, finetuning, heads, scores, splits

`splits` divides a set, `features` runs a frozen net over it once, `heads` fits classifiers to features, `finetuning`
trains the last stages or the whole net, `scores` judges and compares answers. What differs between sets (classes,
groups, channels, permitted flips) is said by :class:`whichbackbone.experiments.datasets.LabelledSet`.
"""
