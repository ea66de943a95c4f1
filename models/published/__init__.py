"""GANs that others trained and published: StyleGAN2, StyleGAN3, BigGAN and GALIP, drawn with like our own.

`convert.py` reads the files in which they were published (`formats`), and runs nothing of them; `checkpoint.py` keeps them as
safetensors.
"""
