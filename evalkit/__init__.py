"""How good is an image representation? Train the DCGAN, take features, fit exact linear SVMs, print the table."""
