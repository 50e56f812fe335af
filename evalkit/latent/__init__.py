"""Looking inside a trained GAN: its latent space and its filters (Radford et al. 2016, sections 6 and 7).

A run becomes a fixed function (gan, critic); each experiment returns a Finding; `save` writes it as a folder.
"""
