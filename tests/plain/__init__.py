"""An independent plain-numpy implementation of the published model, to test the library against."""
