"""The files in which GANs were published: each module reads one format into the networks of `..`, as data.

Names and constants are those of the files; what they mean is in the papers. Gains are multiplied into the weights here, and
weights that are demodulated brought to unit length, which demodulation cancels.
"""
