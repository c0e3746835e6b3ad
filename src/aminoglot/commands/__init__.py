"""One module for each command or two: what users type, made calls of the rooms below. Importing them imports no torch.

embed       `aminoglot embed`
models      `aminoglot models`, `aminoglot convert`
"""
